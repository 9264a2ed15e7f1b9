"""The table of results, and the slide that is huge on paper only."""

import inspect
import json
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openslide import OpenSlide

from benchmarks.__main__ import GPU_FIRST, PROGRAMS, devices, main, merge, page, plan
from benchmarks.result import SECONDS, Result, from_times, left_out, rounds_in_time
from benchmarks.sparse_slide import write_sparse
from histotransfer_pl.slides.reader import open_slide


def test_every_program_is_in_the_list() -> None:
    folder = Path(__file__).parents[2] / "benchmarks"
    programs = {p.stem for p in folder.glob("*.py") if '\n    run("' in p.read_text()}
    assert set(PROGRAMS) == programs
    assert all(devices(name)[0] == "cpu" for name in PROGRAMS)


def test_page_tells_missed_goals_and_what_was_not_measured() -> None:
    rows = [
        Result("bag read", 1.4, 1.15).to_dict(),
        Result("patches/s", 3.2, 3.0, low=3.0, high=3.5, at_least=True).to_dict(),
        left_out("patches/s of an Aperio", 3.0, "set HISTOTRANSFER_DATA").to_dict(),
    ]
    results = merge(
        {"machines": {}, "rows": []}, [{**row, "program": "store_read"} for row in rows], MACHINE
    )
    cpu, gpu = page(results, ["scaling (cpu)"]).split("## GPU")
    assert "| bag read | 1.4 |  | ≤ 1.15 | **missed** |" in cpu
    assert "| patches/s | 3.2 | 3.00 to 3.50 | ≥ 3 | met |" in cpu
    assert "- not measured: patches/s of an Aperio: set HISTOTRANSFER_DATA" in cpu
    assert "- not measured: peers: `python -m benchmarks --device cpu --only peers`" in cpu
    wanted = "- not measured: extraction, default settings, vs encoder or reader alone, ≥ 0.9: "
    assert f"{wanted}`python -m benchmarks --device cuda --only extraction`" in gpu
    assert "Did not run: scaling (cpu)." in gpu


MACHINE = {"memory": "8 GiB"}


def test_a_row_that_lacks_its_input_now_keeps_what_was_measured() -> None:
    row = {**Result("vs another tool", 2.0, 1.0, at_least=True).to_dict(), "program": "peers"}
    before = merge({"machines": {}, "rows": []}, [row], MACHINE)
    now = {**left_out("vs another tool", 1.0, "install it").to_dict(), "program": "peers"}
    after = merge(before, [now, {**row, "name": "another row"}], MACHINE)
    assert [(row["ratio"], row["machine"]) for row in after["rows"]] == [(2.0, "1"), (2.0, "2")]
    assert merge({"machines": {}, "rows": []}, [now], MACHINE)["rows"][0]["left_out"]


def test_a_run_on_one_device_keeps_the_rows_of_the_other() -> None:
    one = {**Result("extraction", 0.95, 0.9, at_least=True).to_dict(), "program": "extraction"}
    other = {**one, "device": "cuda", "ratio": 0.5}
    before = merge({"machines": {}, "rows": []}, [one], MACHINE)
    both = merge(before, [other], {"GPU": "a card"})
    assert [(row["device"], row["machine"]) for row in both["rows"]] == [
        ("cpu", "1"),
        ("cuda", "2"),
    ]
    again = merge(both, [{**other, "ratio": 0.7}], {"GPU": "another"})
    assert [row["ratio"] for row in again["rows"]] == [0.95, 0.7]
    assert list(again["machines"]) == ["1", "3"]
    assert list(merge(again, [other], MACHINE)["machines"]) == ["1", "4"]
    assert "| extraction | 0.7 |" in page(again, []).split("## GPU")[1]


def test_a_gpu_runs_what_can_run_there() -> None:
    assert plan(["scaling", "peers"], "cuda") == [("peers", "cuda")]
    assert all("cpu" in where for _, where in plan(None, "cpu"))
    for name in GPU_FIRST:
        measure = import_module(f"benchmarks.{name}").measure
        assert "device" in inspect.signature(measure).parameters


def test_a_program_that_fails_or_takes_too_long_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits: list[tuple[float, float]] = []

    def fake(command: list[str], **given: Any) -> subprocess.CompletedProcess[str]:
        name = command[2].removeprefix("benchmarks.")
        limits.append((float(given["env"]["BENCHMARK_SECONDS"]), given["timeout"]))
        if name == "store_read":
            return subprocess.CompletedProcess(command, 1, "", "Traceback: no memory")
        if name == "store_scale":
            raise subprocess.TimeoutExpired(command, 1)
        rows = json.dumps([Result("epoch", 1.0, 1.3).to_dict()])
        return subprocess.CompletedProcess(command, 0, f"noise\n{rows}\n", "")

    monkeypatch.setattr(subprocess, "run", fake)
    names = ["store_read", "store_scale", "datamodule_epoch"]
    arguments = ["--only", *names, "--minutes", "5", "--device", "cpu", "--folder", str(tmp_path)]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert "  epoch: 1 (met)" in out
    assert "store_scale on cpu: stopped after 0 s" in out
    assert "did not run: store_read (cpu), store_scale (cpu)" in out
    assert "Traceback: no memory" in err
    assert [round(share) for share, _ in limits] == [100, 150, 300]  # of what is left
    assert all(timeout == pytest.approx(4 * share, rel=0.01) for share, timeout in limits)
    assert len(json.loads((tmp_path / "results.json").read_text())["rows"]) == 1


def test_speedup_is_the_median_of_the_rounds_and_wants_to_be_large() -> None:
    result = from_times("n", 3.0, [1.0, 2.0, 50.0], [4.0, 6.0, 100.0], speedup=True)
    assert result.ratio == 3.0
    assert result.met
    assert not from_times("n", 1.15, [4.0, 6.0], [1.0, 2.0]).met


def test_rounds_end_when_the_time_of_the_program_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(rounds_in_time(5)) == [0, 1, 2, 3, 4]
    monkeypatch.setenv(SECONDS, "0")
    assert list(rounds_in_time(5)) == [0, 1]
    assert list(rounds_in_time(5, least=3)) == [0, 1, 2]


def test_one_program_runs_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--only", "store_read", "--folder", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert len(rows) == 5
    assert all({"name", "ratio", "goal", "met", "program"} <= row.keys() for row in rows)
    assert rows[0]["name"] in (tmp_path / "RESULTS.md").read_text()
    assert "store_read on cpu" in capsys.readouterr().out


def test_sparse_slide_is_one_that_openslide_reads(tmp_path: Path) -> None:
    path = tmp_path / "huge.tiff"
    write_sparse(path, 60_000, 40_000)
    assert path.stat().st_size < 1_000_000
    reader = open_slide(path, reader="direct")
    assert reader.mpp == pytest.approx(0.5)
    with OpenSlide(path) as slide:
        assert slide.level_dimensions == (
            (60_000, 40_000),
            (15_000, 10_000),
            (3_750, 2_500),
            (937, 625),
        )
        expected = np.asarray(slide.read_region((59_000, 39_000), 0, (300, 300)).convert("RGB"))
    np.testing.assert_array_equal(reader.read_patch(59_000, 39_000, 300, reader.mpp), expected)
