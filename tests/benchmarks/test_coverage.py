"""The program that counts how often intervals and tests keep their promise."""

import json
from pathlib import Path

import pytest

from benchmarks import coverage
from histotransfer_pl.analysis.survival import c_index


def test_it_measures_a_design(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = coverage._of_task("survival", {"C-index": c_index})
    monkeypatch.setattr(coverage, "designs", lambda: [small])
    coverage.main(["--cohorts", "4", "--pairs", "5", "--folder", str(tmp_path)])
    interval, test = (coverage.Row(*row) for row in json.loads(_json(tmp_path)))
    assert (interval.what, interval.cohorts) == ("interval of C-index", 4)
    assert (test.what, test.cohorts) == ("paired test of C-index", 5)
    assert interval.error_ratio is None
    assert test.error_ratio is not None
    assert test.error_ratio > 0
    page = (tmp_path / "coverage.md").read_text()
    assert (
        f"| {test.refused} | {'yes' if test.kept else '**no**'} | {test.error_ratio:.2f} |" in page
    )


def test_the_committed_table_is_that_of_its_numbers() -> None:
    rows = [coverage.Row(*row) for row in json.loads(_json(coverage.FOLDER))]
    assert (coverage.FOLDER / "coverage.md").read_text() == coverage.page(rows)
    # where a promise is not kept the interval is too wide or the test too careful
    for row in rows:
        assert row.share > 0.91 if row.what.startswith("interval") else row.share < 0.065, row


def _json(folder: Path) -> str:
    return (folder / "coverage.json").read_text()
