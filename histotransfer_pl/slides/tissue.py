"""Where a slide shows tissue: a mask from the colours of a thumbnail."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from histotransfer_pl.records.grid import TissueSettings

OTSU_RANGE = (0.05, 0.15)
"""Otsu always splits, also a slide without tissue or without background. Held to the range in
which glass ends and stained tissue begins, it keeps nothing of the one and all of the other."""

_BAND_ROWS = 256


def tissue_mask(
    rgb: NDArray[np.uint8], mpp: float, settings: TissueSettings | None = None
) -> NDArray[np.bool_]:
    """Mask of the tissue in a thumbnail.

    Args:
        rgb: (h, w, 3) thumbnail.
        mpp: Micrometres per pixel of the thumbnail.
        settings: How tissue is found.

    Returns:
        (h, w), True where there is tissue; all False if there is none.
    """
    settings = settings or TissueSettings()
    if settings.method == "none":
        return np.ones(rgb.shape[:2], np.bool_)
    if settings.method == "non_white":
        mask = rgb.min(axis=2) < settings.white_level
    else:
        colour = rgb.max(axis=2) - rgb.min(axis=2)  # (h, w)
        mask = colour > 255 * _threshold(colour, settings)
    mask = ~_drop_small(~mask, settings.fill_holes_um2 / mpp**2)
    return _drop_small(mask, settings.min_area_um2 / mpp**2)


def _threshold(colour: NDArray[np.uint8], settings: TissueSettings) -> float:
    """Colourfulness from 0 to 1 above which a pixel is tissue."""
    if settings.saturation_threshold is not None and settings.method == "threshold":
        return settings.saturation_threshold
    low, high = OTSU_RANGE
    otsu = threshold_otsu(colour)  # type: ignore[no-untyped-call]
    return float(np.clip(otsu / 255, low, high))


def _drop_small(mask: NDArray[np.bool_], min_px: float) -> NDArray[np.bool_]:
    """The mask without its connected pieces of fewer pixels."""
    labels, pieces = ndimage.label(mask)
    sizes = np.zeros(pieces + 1, np.int64)  # (pieces + 1,)
    for top in range(0, len(labels), _BAND_ROWS):  # bincount copies what it counts as int64
        sizes += np.bincount(labels[top : top + _BAND_ROWS].ravel(), minlength=pieces + 1)
    keep = sizes >= min_px
    keep[0] = False  # label 0 is the background
    kept: NDArray[np.bool_] = keep[labels]
    return kept
