"""Tables that no spreadsheet executes."""

from pathlib import Path

import pandas as pd
import pytest

from histotransfer_pl.records.tables import read_table, write_table

CELLS = ["=1+1", "+", "-", "@SUM(A1)", "'=1", "''-", "a=b", "None", "null", "NA", "", "it's", "'"]


def test_what_a_spreadsheet_would_execute_is_text_and_comes_back(tmp_path: Path) -> None:
    frame = pd.DataFrame({"label": CELLS, "p_=x": range(len(CELLS)), "low": -0.5})
    write_table(tmp_path / "t.csv", frame)
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:6]] == ["'=1+1", "'+", "'-", "'@SUM(A1)", "''=1"]
    assert lines[1].endswith(",-0.5")  # a number is no formula
    pd.testing.assert_frame_equal(
        read_table(tmp_path / "t.csv", ["label"]), frame, check_dtype=False
    )


@pytest.mark.parametrize("name", ["-", "=cmd"])
def test_headings_are_cells_too(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame([[1, 0], [2, 3]], index=pd.Index(["a", name], name="label"))
    table.columns = pd.Index(["a", name])
    write_table(tmp_path / "t.csv", table, index=True)
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        f"label,a,'{name}", "a,1,0", f"'{name},2,3",
    ]  # fmt: skip
    assert read_table(tmp_path / "t.csv").columns.tolist() == ["label", "a", name]
