"""The resolution of a slide: from the user, from the file, or an error that asks for it."""

from collections.abc import Mapping
from pathlib import Path

from histotransfer_pl.errors import MissingMppError

PLAUSIBLE_MPP = (0.05, 20.0)
"""Micrometres per pixel that a scanner can have written; TIFF writers leave 352.8 (72 dpi)."""

MAX_ANISOTROPY = 0.02
"""Relative difference of x and y up to which pixels count as square."""

_MICROMETRES = {"inch": 25_400.0, "centimeter": 10_000.0}
_REMEDY = "give it in the cohort table's column 'mpp' or with --data.slide_mpp"


def slide_resolution(path: Path, properties: Mapping[str, str], given: float | None) -> float:
    """Micrometres per pixel of a slide's level 0.

    Args:
        path: Names the slide in errors.
        properties: OpenSlide's properties.
        given: What the user says; it is believed and wins over the file.

    Returns:
        The mean of x and y, which differ by at most 2 %.

    Raises:
        MissingMppError: If nothing is known, or what the file says cannot be.
    """
    if given is not None:
        if not 0 < given < float("inf"):
            raise MissingMppError(
                f"slide {path}: mpp given as {given}, expected a positive number of micrometres "
                "per pixel such as 0.25"
            )
        return float(given)
    source, x, y = _from_file(path, properties)
    low, high = PLAUSIBLE_MPP
    if not (low <= x <= high and low <= y <= high):
        raise MissingMppError(
            f"slide {path}: {source} says {x:.6g} x {y:.6g} micrometres per pixel, expected "
            f"{low} to {high}; {_REMEDY}"
        )
    if abs(x - y) > MAX_ANISOTROPY * min(x, y):
        raise MissingMppError(
            f"slide {path}: {source} says {x:.6g} micrometres per pixel along x and {y:.6g} along "
            f"y, expected square pixels; {_REMEDY}"
        )
    return (x + y) / 2


def _from_file(path: Path, properties: Mapping[str, str]) -> tuple[str, float, float]:
    """What the file says, along x and y, and where it says so."""
    x, y = properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y")
    if x and y:
        return "the file (openslide.mpp-x, mpp-y)", float(x), float(y)
    unit = _MICROMETRES.get(properties.get("tiff.ResolutionUnit", ""))
    x, y = properties.get("tiff.XResolution"), properties.get("tiff.YResolution")
    if unit and x and y and float(x) > 0 and float(y) > 0:
        return "its TIFF resolution", unit / float(x), unit / float(y)
    power = properties.get("openslide.objective-power")
    hint = f" (its objective is {power}x; 40x is mostly near 0.25, 20x near 0.5)" if power else ""
    raise MissingMppError(
        f"slide {path}: the file does not say how many micrometres a pixel is{hint}; {_REMEDY}"
    )
