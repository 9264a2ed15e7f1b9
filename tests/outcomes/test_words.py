"""Labels as spreadsheets leave them."""

from pathlib import Path

import pytest

from histotransfer_pl.data.cohort import read_cohort
from histotransfer_pl.errors import CohortError
from histotransfer_pl.outcomes.words import clean_labels, sort_classes


def labels(tmp_path: Path, *fields: str) -> list[str]:
    path = tmp_path / "c.csv"
    rows = "".join(f"s{number},{field}\n" for number, field in enumerate(fields))
    path.write_text(f"slide_id,label\n{rows}", encoding="utf-8")
    return clean_labels(read_cohort(path)["label"]).tolist()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["1", "0", ""], ["1", "0", ""]),
        (["1", "#N/A", "0"], ["1", "", "0"]),
        (["1", "1.0", "unknown", "0"], ["1", "1", "unknown", "0"]),
        (["0.5", "1.0"], ["0.5", "1.0"]),
        (["True", "FALSE", "true"], ["True", "False", "True"]),
        (["True", "FALSE", ""], ["True", "False", ""]),
        (["TRUE", "x"], ["TRUE", "x"]),
        (["wt ", "mut", "\u00a0wt"], ["wt", "mut", "wt"]),
        (["gro\u00df", "None", "null"], ["gro\u00df", "None", "null"]),
        (["e\u0301", "\u00e9"], ["\u00e9", "\u00e9"]),
        (["\u00b3", "2"], ["\u00b3", "2"]),
        (["--5", "1"], ["--5", "1"]),
        (["1e300", "inf"], ["1e+300", "inf"]),
    ],
)
def test_labels_are_words(tmp_path: Path, fields: list[str], expected: list[str]) -> None:
    assert labels(tmp_path, *fields) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Neg", "neg"),
        ("wild  type", "wild type"),
        ("STRASSE", "Stra\u00dfe"),
        ("3", "\u00b3"),
    ],
)
def test_classes_that_look_alike_are_refused(tmp_path: Path, one: str, other: str) -> None:
    with pytest.raises(CohortError, match=rf"labels {one!r} and {other!r} differ by case, spaces"):
        labels(tmp_path, one, "Pos", other, "")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "-1"], ["-1", "9", "10"]),
        (["10", "9", "a"], ["10", "9", "a"]),
        (["\u00b3", "10"], ["10", "\u00b3"]),
        (["--5", "10"], ["--5", "10"]),
        (["9" * 5000, "1"], ["1", "9" * 5000]),
        (["\u0663", "10"], ["10", "\u0663"]),
    ],
)
def test_classes_are_in_the_order_of_numbers_or_words(
    names: list[str], expected: list[str]
) -> None:
    assert sort_classes(names) == expected
