"""The program that counts how often intervals and tests keep their promise."""

import json
from pathlib import Path

import pytest

from benchmarks import coverage
from histotransfer_pl.analysis.survival import c_index


def test_it_measures_a_design_and_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = coverage._of_task("survival", {"C-index": c_index})
    other = coverage.Design("other", small.draw, (30,), {}, {})
    monkeypatch.setattr(coverage, "designs", lambda: [small, other])
    known = {"other": [["interval of x", "other", 30, 0.95, 100, 0, True]]}
    (tmp_path / "coverage.json").write_text(json.dumps(known))
    arguments = ["--cohorts", "4", "--pairs", "2", "--only", "survival"]
    coverage.main([*arguments, "--folder", str(tmp_path)])
    lines = (tmp_path / "coverage.md").read_text().splitlines()
    assert "| interval of x | other | 30 | 0.950 | 100 | 0 | yes |" in lines
    (row,) = [line for line in lines if line.startswith("| interval of C-index | survival | 60 |")]
    assert row.split(" | ")[4] == "4"
    assert set(json.loads((tmp_path / "coverage.json").read_text())) == {"survival", "other"}


def test_the_committed_table_is_that_of_its_numbers() -> None:
    known = json.loads((coverage.FOLDER / "coverage.json").read_text())
    rows = [coverage.Row(*row) for design in known.values() for row in design]
    assert (coverage.FOLDER / "coverage.md").read_text() == coverage.page(rows)
    # where a promise is not kept the interval is too wide or the test too careful
    for row in rows:
        assert row.share > 0.91 if row.what.startswith("interval") else row.share < 0.065, row
