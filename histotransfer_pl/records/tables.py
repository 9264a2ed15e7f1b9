"""CSV tables that no spreadsheet executes, and that are read back as they were written."""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pandas as pd

from histotransfer_pl.records.files import write_text

_EXECUTED = re.compile(r"'*[=+\-@\t\r]")
"""Text that a spreadsheet takes for a formula, or that was such a text when it was written."""
_NEUTRALISED = re.compile(r"'+[=+\-@\t\r]")


def write_table(path: Path, frame: pd.DataFrame, *, index: bool = False) -> None:
    """Write a CSV file whole, as ``table_text`` gives it."""
    write_text(path, table_text(frame.reset_index() if index else frame))


def table_text(frame: pd.DataFrame) -> str:
    """A table as CSV.

    A spreadsheet executes a cell that begins with ``=``, ``+``, ``-`` or ``@``, and names of
    slides and classes come from others: such a text gets an apostrophe in front, which
    ``read_table`` takes away. Numbers stay as they are.
    """
    return _mapped(frame, _escape_formula).to_csv(index=False)


def read_table(path: Path, text: Collection[str] = (), **options: Any) -> pd.DataFrame:
    """Read what ``write_table`` wrote; a class called None, null or NA stays a word.

    Args:
        path: The file.
        text: Columns that are text, whatever they hold.
        options: Of ``pandas.read_csv``.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is no table (pandas' own errors are ValueErrors).
    """
    kinds = dict.fromkeys(text, str)
    frame = pd.read_csv(path, dtype=kinds, keep_default_na=False, **options)
    return _mapped(frame, _restored)


def _mapped(frame: pd.DataFrame, change: Callable[[Any], Any]) -> pd.DataFrame:
    text = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    changed = frame.assign(**{name: frame[name].map(change) for name in text})
    return changed.rename(columns=change)


def _escape_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _EXECUTED.match(cell) else cell


def _restored(cell: Any) -> Any:
    return cell[1:] if isinstance(cell, str) and _NEUTRALISED.match(cell) else cell
