"""The campaign of odd tables and YAML files sees what it looks for."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import settings
from benchmarks.faults.apart import CRASHED, Ended, run_apart
from benchmarks.faults.tally import Tally

TABLE = b"slide_id,patient_id,label\na,p1,neg\nb,p2,pos\nc,p3,#N/A\n"


def test_a_few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "YAMLS", (settings.an_unknown_key,))
    assert settings.campaign(seed=3, cases=3) == Tally("settings", 3, 3, 0, 0)


@pytest.mark.parametrize(
    ("ended", "odd"),
    [
        (Ended(0, "cohort: 3 slides\n"), ""),
        (Ended(1, "cohort: 3 slides\nerror: no label\n"), ""),
        (Ended(2, "error: no setting x\n"), ""),
        (Ended(1, ""), "not one line"),
        (Ended(1, "error: a\nb\n"), "not one line"),
        (Ended(1, "error: a\nerror: b\n"), "not one line"),
        (Ended(0, "error: a\n"), "exit code 0 with error: a"),
        (Ended(-6, ""), "ended with -6"),
        (Ended(CRASHED, "Traceback"), "ended with 99"),
    ],
)
def test_how_a_verb_may_end(ended: Ended, odd: str) -> None:
    found = settings._end_is_odd(ended)
    assert (odd in found) if odd else not found


@pytest.mark.parametrize(
    ("classes", "patients", "wrong"),
    [
        (["neg", "pos"], ["p1", "p2"], ""),
        (["neg", "pos", "#N/A"], ["p1"], "classes"),
        (["neg"], ["p1"], "classes"),
        (["neg", "pos"], ["p1", "p3"], "patients ['p3'] are not in the table"),
    ],
)
def test_a_run_is_compared_with_the_table(
    tmp_path: Path, classes: list[str], patients: list[str], wrong: str
) -> None:
    record = {"target": {"classes": classes}, "train_patients": patients, "validation_patients": []}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps({"record": record}))
    found = settings._other_cohort(tmp_path, TABLE)
    assert (wrong in found) if wrong else not found


@pytest.mark.parametrize(
    ("recorded", "value", "same"),
    [(1.0, 1, True), ("x", "x", True), (None, "null", True), (2, 1, False), (None, "x", False)],
)
def test_a_value_must_be_the_recorded_one(recorded: object, value: object, same: bool) -> None:
    assert settings._records({"a": {"b": recorded}}, ("a", "b"), value) == same


def test_cases_are_drawn_by_seed() -> None:
    config: dict[str, Any] = {"trainer": {"devices": 1, "precision": None}, "run_dir": "r"}
    for kind in settings.YAMLS:
        assert kind(config, random.Random(1))[:2] == kind(config, random.Random(1))[:2]
    sound = TABLE.decode()
    drawn = [kind(sound, random.Random(n)) for kind in settings.TABLES for n in range(5)]
    assert sum(content != TABLE for content in drawn) > 30
    again = [kind(sound, random.Random(n)) for kind in settings.TABLES for n in range(5)]
    assert drawn == again


def test_code_runs_apart() -> None:
    def fail() -> int:
        raise KeyError("odd")

    def leave() -> int:
        raise SystemExit(2)

    assert run_apart(lambda: 3).code == 3
    assert run_apart(leave).code == 2
    assert "KeyError: 'odd'" in run_apart(fail).errors
    assert run_apart(fail).code == CRASHED

    def spin() -> int:
        while True:
            pass

    assert run_apart(spin, cpu_s=1).code < 0
