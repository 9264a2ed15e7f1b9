"""The cohort table: which slides, of which patients, with which labels.

A cohort is a CSV file with one row a slide and the columns ``slide_id``, ``patient_id`` (for
training), the target columns, and optionally ``path``, ``mpp`` and a fold column.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from histotransfer_pl.errors import CohortError, MissingMppError
from histotransfer_pl.slides.files import find_slides
from histotransfer_pl.slides.openslide_reader import OpenSlideReader
from histotransfer_pl.slides.reader import ReaderName, open_slide

MISSING = ["", "NA", "N/A", "NaN", "nan", "<NA>"]
"""Fields that say nothing, as spreadsheets, R and pandas write them."""

_SHOWN = 5


@dataclass(frozen=True)
class SlideEntry:
    """One slide to read.

    Attributes:
        slide_id: The name of the slide in the cohort and in the store.
        path: Where its file should be; it may be missing, which is reported when it is read.
        mpp: Micrometres per pixel of level 0 given by the user, or None to ask the file.
    """

    slide_id: str
    path: Path
    mpp: float | None = None

    def open(self, slide_mpp: float | None = None, reader: ReaderName = "auto") -> OpenSlideReader:
        """Open the slide; its own mpp wins over the file's.

        Args:
            slide_mpp: Micrometres per pixel of level 0 if neither the user's table nor the file
                gives it.
            reader: Who reads the pixels.

        Raises:
            SlideError: If the file is missing or no slide, or its resolution is unknown.
        """
        try:
            return open_slide(self.path, self.mpp, reader)
        except MissingMppError:
            if slide_mpp is None:
                raise
            return open_slide(self.path, slide_mpp, reader)


def shorten(names: list[str]) -> str:
    """The first few names and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more


def read_cohort(path: Path) -> pd.DataFrame:
    """Read a cohort table.

    Args:
        path: A CSV file with at least the column ``slide_id``.

    Returns:
        The table; ``slide_id`` and ``patient_id`` are strings, ``slide_id`` is unique.

    Raises:
        CohortError: If the file, the column or an id is missing, or an id stands twice.
    """
    try:
        frame = read_table(path, {"slide_id": str, "patient_id": str})
    except FileNotFoundError as error:
        raise CohortError(
            f"no cohort table at {path}: give a CSV file with the column slide_id"
        ) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise CohortError(f"{path} is not a CSV table: {error}") from error
    require_columns(frame, ["slide_id"], path)
    for column in {"slide_id", "patient_id"} & set(frame.columns):
        # A stray space would make two patients of one, on two sides of a split.
        frame[column] = frame[column].str.strip().replace("", None)
    without_id = frame.index[frame["slide_id"].isna()]
    if len(without_id):
        raise CohortError(f"{path}: line {without_id[0] + 2} has no slide_id")
    twice = frame.loc[frame["slide_id"].duplicated(), "slide_id"].unique().tolist()
    if twice:
        raise CohortError(
            f"{path}: slide_id must be unique, but {shorten(twice)} stand more than once; "
            "give each slide one row"
        )
    return frame


def read_table(path: Path, dtype: dict[str, type]) -> pd.DataFrame:
    """A CSV table; ``None`` and ``null`` are words, which may name a class."""
    return pd.read_csv(path, dtype=dtype, keep_default_na=False, na_values=MISSING)


def require_columns(frame: pd.DataFrame, columns: list[str], path: Path) -> None:
    """Raise a CohortError that names the missing columns and the ones found."""
    missing = [column for column in columns if column not in frame]
    if missing:
        raise CohortError(
            f"{path} has no column {', '.join(missing)}; found: {', '.join(frame.columns)}"
        )


def require_patients(frame: pd.DataFrame, path: Path) -> None:
    """Raise a CohortError that names the slides without a patient."""
    nameless = frame.loc[frame["patient_id"].isna(), "slide_id"].tolist()
    if nameless:
        raise CohortError(f"{path}: no patient_id for {shorten(nameless)}")


def slides_from_folder(folder: Path) -> list[SlideEntry]:
    """Every slide file of a folder, named by its stem.

    Raises:
        CohortError: If there is no such folder, no slide in it, or two files share a stem.
    """
    if not folder.is_dir():
        raise CohortError(f"no folder {folder}: data.slides is the folder that holds the slides")
    paths = find_slides(folder)
    if not paths:
        raise CohortError(f"no slide file that OpenSlide knows by its ending in {folder}")
    by_stem: dict[str, Path] = {}
    for path in paths:
        if path.stem in by_stem:
            raise CohortError(
                f"{by_stem[path.stem].name} and {path.name} would both be the slide "
                f"{path.stem!r}: rename one, or list them in a cohort table with their own ids"
            )
        by_stem[path.stem] = path
    return [SlideEntry(stem, path) for stem, path in by_stem.items()]


def slides_from_cohort(cohort: Path, folder: Path | None = None) -> list[SlideEntry]:
    """The slides of a cohort table, in its order.

    Args:
        cohort: The table. Relative paths in its column ``path`` start at ``folder``, or at the
            table's own folder. Without that column slides are found in ``folder`` by their stem.
        folder: The folder of the slides.

    Raises:
        CohortError: If a path leaves the folder, there is neither a column nor a folder, or not
            one of the files exists.
    """
    frame = read_cohort(cohort)
    mpps = _mpps(frame, cohort)
    if "path" in frame:
        empty = frame.loc[frame["path"].isna(), "slide_id"].tolist()
        if empty:
            raise CohortError(f"{cohort}: no path for {shorten(empty)}; fill it in or drop the row")
        root = (folder or cohort.parent).absolute()
        paths = [_inside(root, str(name), cohort) for name in frame["path"]]
        if not any(path.exists() for path in paths):
            raise CohortError(
                f"none of the {len(paths)} files that {cohort} names exists, {paths[0]} for "
                "instance: relative paths start at data.slides, or without it at the table's folder"
            )
    elif folder is not None:
        found = {entry.slide_id: entry.path for entry in slides_from_folder(folder)}
        paths = [found.get(name, folder / name) for name in frame["slide_id"]]
    else:
        raise CohortError(
            f"{cohort} has no column path: add it, or say with data.slides which folder holds "
            "files named after slide_id"
        )
    return [
        SlideEntry(str(slide_id), path, mpp)
        for slide_id, path, mpp in zip(frame["slide_id"], paths, mpps, strict=True)
    ]


def _mpps(frame: pd.DataFrame, cohort: Path) -> list[float | None]:
    if "mpp" not in frame:
        return [None] * len(frame)
    numbers = pd.to_numeric(frame["mpp"], errors="coerce")
    wrong = frame.loc[(numbers.isna() & frame["mpp"].notna()) | (numbers <= 0)]
    if len(wrong):
        row = wrong.iloc[0]
        raise CohortError(
            f"{cohort}: mpp of slide {row['slide_id']!r} is {row['mpp']!r}; expected micrometres "
            "per pixel of level 0, such as 0.25, or an empty field"
        )
    return [None if pd.isna(number) else float(number) for number in numbers]


def _inside(root: Path, name: str, cohort: Path) -> Path:
    """The path of ``name`` below ``root``: a table may not point out of its folder."""
    path = Path(os.path.normpath(root / name))
    # A link within the folder may lead out of it: that is its owner's doing, not the table's.
    if not (path.is_relative_to(root) or path.resolve().is_relative_to(root.resolve())):
        raise CohortError(
            f"{cohort}: path {name!r} lies outside {root}; give the folder that holds all "
            "slides with data.slides"
        )
    return path
