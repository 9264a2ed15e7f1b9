"""The table of results, and the slide that is huge on paper only."""

import json
from pathlib import Path

import numpy as np
import pytest
from openslide import OpenSlide

from benchmarks.__main__ import PROGRAMS, devices, main, page
from benchmarks.huge_slide import write_sparse
from benchmarks.result import Result, from_times
from histotransfer_pl.slides.reader import open_slide


def test_every_program_is_in_the_list() -> None:
    folder = Path(__file__).parents[2] / "benchmarks"
    programs = {p.stem for p in folder.glob("*.py") if "\ndef measure(" in p.read_text()}
    assert set(PROGRAMS) == programs
    assert all(devices(name)[0] == "cpu" for name in PROGRAMS)


def test_page_tells_missed_goals_and_keeps_gpu_rows_apart() -> None:
    rows = [
        Result("bag read", 1.4, 1.15).to_dict(),
        Result("patches/s", 3.2, 3.0, low=3.0, high=3.5, at_least=True).to_dict(),
        Result("extraction", 0.95, 0.9, at_least=True, device="cuda").to_dict(),
    ]
    text = page([{**row, "program": "p"} for row in rows], {"memory": "8 GiB"}, "cmd", ["x (cpu)"])
    cpu, gpu = text.split("## GPU")
    assert "| bag read | 1.4 |  | ≤ 1.15 | **missed** |" in cpu
    assert "| patches/s | 3.2 | 3.00 to 3.50 | ≥ 3 | met |" in cpu
    assert "extraction" not in cpu
    assert "extraction" in gpu
    assert "Did not run: x (cpu)." in text


def test_speedup_is_the_median_of_the_rounds_and_wants_to_be_large() -> None:
    result = from_times("n", 3.0, [1.0, 2.0, 50.0], [4.0, 6.0, 100.0], speedup=True)
    assert result.ratio == 3.0
    assert result.met
    assert not from_times("n", 1.15, [4.0, 6.0], [1.0, 2.0]).met


def test_one_program_runs_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--only", "store_read", "--folder", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
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
