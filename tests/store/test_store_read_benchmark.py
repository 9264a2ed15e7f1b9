"""The benchmark of store reading runs; its times are looked at elsewhere."""

import time

import pytest

from benchmarks import store_read, store_scale
from benchmarks.result import Result, compare


def test_the_benchmark_measures_every_row() -> None:
    results = store_read.measure((20, 40), width=4, sampled_rows=5, rounds_factor=0.01)
    assert len(results) == 5
    results += store_scale.measure(slides=20, rounds=2)
    assert len(results) == 9
    assert all(result.ratio > 0 for result in results)
    assert all(f"{result.name}: " in str(result) for result in results)


def test_a_ratio_is_work_by_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def work(number: int) -> None:
        clock[0] += 6.0 if number < 8 else 60.0  # one slow round does not move the median

    def reference(_: int) -> None:
        clock[0] += 2.0

    result = compare("n", 3.0, work, reference, 9)
    assert result.ratio == 3.0
    assert result.low == 3.0
    assert result.met


def test_goals_have_a_direction() -> None:
    assert Result("n", 0.9, 0.95).met
    assert not Result("n", 0.9, 0.95, at_least=True).met
    assert Result("n", 0.9, 0.95, at_least=True).to_dict()["met"] is False
