"""Labels as words: what spreadsheets make of a class is undone, what is ambiguous is refused."""

import re
from unicodedata import normalize

import pandas as pd

from histotransfer_pl.errors import CohortError

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_WHOLE_AS_FLOAT = re.compile(r"^(-?[0-9]{1,18})\.0*$")
_EXACT = 2**53
"""Beyond it not every whole number is a float."""


def clean_labels(values: pd.Series) -> "pd.Series[str]":
    """Labels as words, empty where there is none.

    1.0, which pandas makes of 1 beside an empty field, is the class 1, and TRUE is True.

    Raises:
        CohortError: If two labels differ by case, spaces or Unicode spelling only.
    """
    if pd.api.types.is_float_dtype(values):
        known = values.dropna()
        if (known % 1 == 0).all() and (known.abs() < _EXACT).all():
            values = values.astype("Int64")
    words = values.astype("string").fillna("").str.strip().str.normalize("NFC").astype(str)
    if not pd.api.types.is_float_dtype(values):  # of 0.5 and 1.0 the 1.0 stays
        # of each word once: a table of 10,000 slides has a handful
        whole = {word: _WHOLE_AS_FLOAT.sub(r"\1", word) for word in words.unique()}
        words = words.map(whole).astype(str)
    names = {name for name in words.unique() if name}
    if {name.lower() for name in names} <= {"true", "false"}:
        return words.str.capitalize()
    _refuse_look_alikes(names)
    return words


def sort_classes(names: list[str]) -> list[str]:
    """Classes in a stable order: by value when all are numbers, else by alphabet."""
    if all(_WHOLE.fullmatch(name) for name in names):
        return sorted(names, key=int)
    return sorted(names)


def _refuse_look_alikes(names: set[str]) -> None:
    seen: dict[str, str] = {}
    for name in sorted(names):
        other = seen.setdefault(" ".join(normalize("NFKC", name).casefold().split()), name)
        if other != name:
            raise CohortError(
                f"the labels {other!r} and {name!r} differ by case, spaces or the kind of letter "
                "only, and would be two classes: give each class one spelling"
            )
