"""Slide files on disk: which ones a folder holds, and how one is recognised again."""

import hashlib
from pathlib import Path
from unicodedata import normalize

from openslide import OpenSlide, OpenSlideError

from histotransfer_pl.errors import SlideError

SLIDE_SUFFIXES = frozenset(
    [
        ".bif",
        ".czi",
        ".dcm",
        ".mrxs",
        ".ndpi",
        ".scn",
        ".svs",
        ".svslide",
        ".tif",
        ".tiff",
        ".vms",
        ".vmu",
    ]
)
"""The file names of the formats that OpenSlide reads."""

_MIB = 1024**2


def find_slides(folder: str | Path, recursive: bool = False) -> list[Path]:
    """Slides of a folder, by the ends of their names, sorted.

    Of the many files of a DICOM slide one is named, the first of its series. The data files of
    an MRXS slide have other names and lie in a folder of their own, so they never show up.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SlideError(f"{folder} is not a folder; give the folder that holds the slides")
    found: list[Path] = []
    series: set[str] = set()
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        suffix = path.suffix.lower()
        # macOS leaves "._name.svs" beside every file it copies to foreign disks.
        if suffix not in SLIDE_SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        if suffix == ".dcm" and (name := _dicom_series(path)):
            if name in series:
                continue
            series.add(name)
        found.append(path)
    return found


def unicode_twin(path: Path) -> Path:
    """The file whose name differs only in how Unicode spells accented letters, else the path.

    macOS takes a letter and its accent apart (NFD), most tables hold them as one (NFC).
    """
    if str(path).isascii() or exists(path):
        return path
    parent = path.parent if exists(path.parent) else unicode_twin(path.parent)
    name = normalize("NFC", path.name)
    try:
        same = (item for item in parent.iterdir() if normalize("NFC", item.name) == name)
        return next(same, path)
    except OSError:
        return path  # whoever reads it will say why it cannot be


def exists(path: Path) -> bool:
    """Whether there is such a file; no file has a name that the system refuses."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _dicom_series(path: Path) -> str | None:
    """The series a DICOM file belongs to; None if it does not open, which reading will report."""
    try:
        with OpenSlide(path) as slide:
            return slide.properties.get("dicom.SeriesInstanceUID")
    except OpenSlideError:
        return None


def fingerprint(path: str | Path) -> dict[str, int | str]:
    """What tells whether a slide is still the file that was read.

    Returns:
        ``size`` in bytes, ``mtime_ns``, and ``quick_hash``: SHA-256 over the size and the first
        and last MiB, which does not change when the file is copied.
    """
    try:
        status = Path(path).stat()
        digest = hashlib.sha256(str(status.st_size).encode())
        with Path(path).open("rb") as file:
            digest.update(file.read(_MIB))
            file.seek(max(0, status.st_size - _MIB))
            digest.update(file.read(_MIB))
    except OSError as error:
        raise SlideError(f"slide {path} cannot be read: {error.strerror}") from error
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "quick_hash": digest.hexdigest(),
    }
