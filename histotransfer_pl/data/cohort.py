"""The cohort table: which slides, of which patients, with which labels.

A cohort is a CSV file with one row per slide and the columns ``slide_id``, ``patient_id`` (for
training), the target columns, and optionally ``path``, ``mpp`` and a fold column.
"""

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import pandas as pd

from histotransfer_pl.errors import CohortError, ConfigError, MissingMppError, SlideError, shorten
from histotransfer_pl.records.grid import SlideMpp
from histotransfer_pl.slides.files import exists, find_slides, unicode_twin
from histotransfer_pl.slides.limits import SLIDE_MEMORY_GIB
from histotransfer_pl.slides.openslide_reader import OpenSlideReader
from histotransfer_pl.slides.reader import ReaderName, open_slide
from histotransfer_pl.slides.resolution import EXPECTED_MPP, is_plausible

_SPREADSHEET_ERRORS = ["DIV/0!", "N/A", "N/A N/A", "NA", "NAME?", "NULL!", "NUM!", "REF!", "VALUE!"]
MISSING = ["", "NA", "N/A", "NaN", "nan", "<NA>", *(f"#{error}" for error in _SPREADSHEET_ERRORS)]
"""Fields that say nothing, as spreadsheets, R and pandas write them."""


@dataclass(frozen=True)
class SlideEntry:
    """One slide to read.

    Attributes:
        slide_id: The name of the slide in the cohort and in the store.
        path: Where its file should be; it may be missing, which is reported when it is read.
        mpp: Micrometres per pixel of level 0 given by the user, or None to ask the file.
        problem: Why this row of a table cannot be read; empty otherwise.
    """

    slide_id: str
    path: Path
    mpp: float | None = None
    problem: str = ""

    def open(
        self,
        slide_mpp: float | None = None,
        reader: ReaderName = "auto",
        memory_gib: float = SLIDE_MEMORY_GIB,
    ) -> OpenSlideReader:
        """Open the slide; its own mpp wins over the file's.

        Args:
            slide_mpp: Micrometres per pixel of level 0 if neither the user's table nor the file
                gives it.
            reader: Who reads the pixels.
            memory_gib: Memory that one step of reading may take.

        Raises:
            SlideError: If the file is missing or no slide, or its resolution is unknown.
        """
        self.require_sound()
        try:
            return open_slide(self.path, self.mpp, reader, memory_gib)
        except MissingMppError:
            if slide_mpp is None or self.mpp is not None:
                raise
            return open_slide(self.path, slide_mpp, reader, memory_gib)

    def require_sound(self) -> None:
        """Raise a SlideError if the row of the table cannot be read."""
        if self.problem:
            raise SlideError(self.problem)


def resolve_mpp(slide_mpp: SlideMpp, grid_mpp: float) -> float | None:
    """The number of micrometres per pixel that a setting means.

    Args:
        slide_mpp: The setting.
        grid_mpp: Resolution of the patches, which ``native`` stands for.

    Raises:
        ConfigError: If no scanner has such pixels.
    """
    mpp = grid_mpp if slide_mpp == "native" else slide_mpp
    if mpp is not None and not is_plausible(mpp):
        raise ConfigError(f"slide_mpp is {mpp:g}, {EXPECTED_MPP}")
    return mpp


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
    require_columns(frame, ["slide_id"], path)
    for column in {"slide_id", "patient_id"} & set(frame.columns):
        # A stray space or accent would make two patients of one, on two sides of a split.
        frame[column] = frame[column].str.strip().str.normalize("NFC").replace("", None)
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
    """A CSV table; ``None`` and ``null`` are words, which may name a class.

    Empty lines are passed over, and spaces around the names of columns.

    Raises:
        FileNotFoundError: If there is no such file.
        CohortError: If it is no table, two columns have one name, or a line has more fields than
            the header, which would shift every column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
        records = list(_rows(csv.reader(io.StringIO(text, newline="")), path))
        if text.count('"') % 2 and records and "\n" in (rest := records[-1][-1]):
            raise CohortError(
                f"{path}: the quote before {rest.splitlines()[0]!r} is not closed, so all lines "
                "after it are one field; close it or take it away"
            )
        rows = io.StringIO()
        csv.writer(rows).writerows(records)
        rows.seek(0)
        return pd.read_csv(rows, dtype=dtype, keep_default_na=False, na_values=MISSING)
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise CohortError(
            f"{path} is not a CSV table in UTF-8 ({error}); save it as CSV UTF-8"
        ) from error
    except (csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise CohortError(f"{path} is not a CSV table: {error}") from error
    except OSError as error:
        raise CohortError(f"{path} cannot be read: {error.strerror}") from error


def _rows(lines: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    """Header and lines of a table that hold something."""
    header: list[str] | None = None
    for number, fields in enumerate(lines, start=1):
        if not "".join(fields).strip():
            continue
        if header is None:
            header = [name.strip() for name in fields]
            twice = [name for name in header if header.count(name) > 1]
            if twice:
                raise CohortError(f"{path} has two columns {twice[0]!r}; rename or drop one")
            yield header
            continue
        if "".join(fields[len(header) :]).strip():
            raise CohortError(
                f"{path}: record {number} has {len(fields)} fields, the header {len(header)}; put "
                "fields that hold a comma in quotes"
            )
        yield fields[: len(header)]


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
    """Every slide file of a folder, named by its stem; if it has none, those of folders in it.

    Raises:
        CohortError: If there is no such folder, no slide in it, or two files share a stem.
    """
    _require_folder(folder)
    by_stem = _by_stem(find_slides(folder)) or _by_stem(find_slides(folder, recursive=True))
    if not by_stem:
        raise CohortError(
            f"no slide file that OpenSlide knows by its ending in {folder} or its folders"
        )
    for stem, paths in by_stem.items():
        if len(paths) > 1:
            raise CohortError(
                f"{_ambiguous(stem, paths, folder)}: rename one, or list the slides in a cohort "
                "table with a column path"
            )
    return [SlideEntry(stem, paths[0]) for stem, paths in by_stem.items()]


def slides_from_cohort(
    cohort: Path, folder: Path | None = None, native_mpp: float | None = None
) -> list[SlideEntry]:
    """The slides of a cohort table, in its order; a row that cannot be read fails alone.

    Args:
        cohort: The table. Relative paths in its column ``path`` start at ``folder``, or at the
            table's own folder. Without that column slides are found by their stem in ``folder``,
            or else in the folders in it.
        folder: The folder of the slides.
        native_mpp: What ``native`` in the column ``mpp`` stands for: the resolution of the patches.

    Raises:
        CohortError: If a path leaves the folder, there is neither a column nor a folder, or not
            one of the files exists.
    """
    frame = read_cohort(cohort)
    if "path" in frame:
        files = _files_of_column(frame, cohort, folder)
    elif folder is not None:
        files = _files_of_names(frame["slide_id"].tolist(), folder)
    else:
        raise CohortError(
            f"{cohort} has no column path: add it, or say with data.slides which folder holds "
            "files named after slide_id"
        )
    mpps = frame["mpp"].tolist() if "mpp" in frame else [None] * len(frame)
    return [
        _entry(str(slide_id), path, problem, mpp, native_mpp, cohort)
        for slide_id, (path, problem), mpp in zip(frame["slide_id"], files, mpps, strict=True)
    ]


def moved_slides(folder: Path | None, cohort: Path | None) -> dict[str, Path]:
    """The files of slides in the folder where they lie now; none without a folder."""
    if folder is None:
        return {}
    found = slides_from_folder(folder) if cohort is None else slides_from_cohort(cohort, folder)
    return {entry.slide_id: entry.path for entry in found}


def _entry(
    slide_id: str, path: Path, problem: str, mpp: object, native_mpp: float | None, cohort: Path
) -> SlideEntry:
    """A row of a table; what is wrong with it will be said when the slide is read."""
    if pd.isna(mpp):  # type: ignore[call-overload]
        return SlideEntry(slide_id, path, problem=problem)
    if str(mpp).strip().lower() == "native":
        return SlideEntry(slide_id, path, native_mpp, problem)
    number = pd.to_numeric(pd.Series([mpp]), errors="coerce").iloc[0]
    if not is_plausible(number):
        problem = problem or (
            f"{cohort}: mpp of slide {slide_id!r} is {mpp!r}, {EXPECTED_MPP}; or native, or an "
            "empty field"
        )
        return SlideEntry(slide_id, path, problem=problem)
    return SlideEntry(slide_id, path, float(number), problem)


def _files_of_column(
    frame: pd.DataFrame, cohort: Path, folder: Path | None
) -> list[tuple[Path, str]]:
    """File and problem of every row of a table with the column ``path``."""
    empty = frame.loc[frame["path"].isna(), "slide_id"].tolist()
    if empty:
        raise CohortError(f"{cohort}: no path for {shorten(empty)}; fill it in or drop the row")
    root = (folder or cohort.parent).absolute()
    files = []
    for name in frame["path"].astype(str):
        if "\0" in name:
            shown = name.replace("\0", "?")
            problem = f"{cohort}: path {shown!r} holds a NUL character, which no file name has"
            files.append((root / shown, problem))
        else:
            files.append((unicode_twin(_inside(root, name, cohort)), ""))
    if not any(exists(path) for path, _ in files):
        raise CohortError(
            f"none of the {len(files)} files that {cohort} names exists, {files[0][0]} for "
            "instance: relative paths start at data.slides, or without it at the table's folder"
        )
    return files


def _files_of_names(names: list[str], folder: Path) -> list[tuple[Path, str]]:
    """File and problem of every slide, by its stem; of no file the name, which is no file."""
    _require_folder(folder)
    here = _by_stem(find_slides(folder))
    below = {} if here.keys() >= set(names) else _by_stem(find_slides(folder, recursive=True))
    files = []
    for name in names:
        paths = (
            here.get(name) or below.get(name) or [unicode_twin(folder / name.replace("\0", "?"))]
        )
        problem = ""
        if len(paths) > 1:
            problem = f"{_ambiguous(name, paths, folder)}: name one of them in a column path"
        files.append((paths[0], problem))
    return files


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise CohortError(f"no folder {folder}: data.slides is the folder that holds the slides")


def _by_stem(paths: list[Path]) -> dict[str, list[Path]]:
    """Files by their names without the ending, accented letters as one character."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(normalize("NFC", path.stem), []).append(path)
    return found


def _ambiguous(stem: str, paths: list[Path], folder: Path) -> str:
    one, other = (path.relative_to(folder) for path in paths[:2])
    return f"{one} and {other} would both be the slide {stem!r}"


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
