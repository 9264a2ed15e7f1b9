"""The resolution of a slide: from the user, from the file, or an error that asks for it."""

import re
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from unicodedata import normalize

from histotransfer_pl.errors import MissingMppError

PLAUSIBLE_MPP = (0.05, 20.0)
"""Micrometres per pixel that a scanner can have had; TIFF writers leave 352.8 (72 dpi)."""

MAX_ANISOTROPY = 0.02
"""Relative difference of x and y up to which pixels count as square."""

_MICROMETRES = {"inch": 25_400.0, "centimeter": 10_000.0}
_OME_UNITS = {"pm": 1e-6, "nm": 1e-3, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25_400.0}
EXPECTED_MPP = (
    f"expected {PLAUSIBLE_MPP[0]} to {PLAUSIBLE_MPP[1]} micrometres per pixel such as 0.25 "
    "(nanometres or millimetres are to be converted)"
)
_REMEDY = "give it in the cohort table's column 'mpp' or with --data.slide_mpp"


def slide_resolution(path: Path, properties: Mapping[str, str], given: float | None) -> float:
    """Micrometres per pixel of a slide's level 0.

    Returns:
        The mean of x and y, which differ by at most 2 %.
    """
    if given is not None:
        if not is_plausible(given):
            raise MissingMppError(f"slide {path}: mpp given as {given:g}, {EXPECTED_MPP}")
        return float(given)
    source, x, y = _from_file(path, properties)
    if not (is_plausible(x) and is_plausible(y)):
        raise MissingMppError(
            f"slide {path}: {source} says {x:.6g} x {y:.6g} micrometres per pixel, "
            f"{EXPECTED_MPP}; {_REMEDY}"
        )
    if abs(x - y) > MAX_ANISOTROPY * min(x, y):
        raise MissingMppError(
            f"slide {path}: {source} says {x:.6g} micrometres per pixel along x and {y:.6g} along "
            f"y, expected square pixels; {_REMEDY}"
        )
    return (x + y) / 2


def is_plausible(mpp: float) -> bool:
    """Whether a scanner can have had so many micrometres per pixel."""
    low, high = PLAUSIBLE_MPP
    return low <= mpp <= high


def _from_file(path: Path, properties: Mapping[str, str]) -> tuple[str, float, float]:
    """What the file says, along x and y, and where it says so."""
    if (ome := _from_ome(properties.get("tiff.ImageDescription", ""))) is not None:
        return "its OME description", *ome
    x, y = properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y")
    if x and y:
        return "the file (openslide.mpp-x, mpp-y)", _number(x), _number(y)
    unit = _MICROMETRES.get(properties.get("tiff.ResolutionUnit", ""))
    per_unit = [_number(properties.get(f"tiff.{axis}Resolution", "")) for axis in "XY"]
    if unit and min(per_unit) > 0:
        return "its TIFF resolution", unit / per_unit[0], unit / per_unit[1]
    power = properties.get("openslide.objective-power")
    hint = f" (its objective is {power}x; 40x is mostly near 0.25, 20x near 0.5)" if power else ""
    raise MissingMppError(
        f"slide {path}: the file does not say how many micrometres a pixel is{hint}; {_REMEDY}"
    )


def _from_ome(description: str) -> tuple[float, float] | None:
    """Micrometres per pixel of an OME-TIFF along x and y; None if it does not say.

    The attributes of the first picture are read, not its XML: no entity of it is followed.
    """
    found = re.search(r"<(?:\w+:)?OME\b.*?<(?:\w+:)?Pixels\b([^>]*)>", description, re.DOTALL)
    if found is None:
        return None
    names = dict(re.findall(r"\b(PhysicalSize\w+)\s*=\s*[\"']([^\"']*)", found[1]))
    if not {"PhysicalSizeX", "PhysicalSizeY"} <= names.keys():
        return None
    sizes = []
    for axis in "XY":
        # The micro sign and the Greek letter are one after NFKC.
        unit = normalize("NFKC", unescape(names.get(f"PhysicalSize{axis}Unit", "um")))
        factor = _OME_UNITS.get(unit.replace("\N{GREEK SMALL LETTER MU}", "u"))
        if factor is None:
            return None
        sizes.append(factor * _number(names[f"PhysicalSize{axis}"]))
    return sizes[0], sizes[1]


def _number(text: str) -> float:
    """The number of a text; not a number if it is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
