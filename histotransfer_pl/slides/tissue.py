"""Where a slide shows tissue: a mask from the colours of a thumbnail."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from histotransfer_pl.records.grid import TissueSettings

OTSU_RANGE = (0.05, 0.15)
"""Otsu always splits, also a slide without tissue or without background. Held to the range in
which glass ends and stained tissue begins, it keeps nothing of the one and all of the other."""

PALE_SHARE, PALE_SEPARATION = 0.1, 0.8
"""A strong stain on a few cells draws Otsu's threshold above a pale counterstain. What lies below
is split again where that explains 80 % of its variance (of pure noise: 64 %) and the more coloured
half is a tenth of the slide (of H&E, whose blurred edges these are, up to 4.5 % on 12 slides)."""

GLASS_LEVEL, GLASS_TINT = 215, 32
"""Glass has no channel below this grey level and no stronger tint."""

_GLASS_PEAK = 0.1
"""Least height of the peak of glass, against the highest among bright pixels."""

_SAMPLE_PX = 1_000_000
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
        colour = _colourfulness(rgb)  # (h, w)
        mask = colour > 255 * _threshold(colour, settings)
    # Background that reaches the edge is no hole: nobody knows how far it goes on.
    mask = ~_drop_small(~mask, settings.fill_holes_um2 / mpp**2, keep_at_edge=True)
    return _drop_small(mask, settings.min_area_um2 / mpp**2)


def is_grey(rgb: NDArray[np.uint8]) -> bool:
    """Whether a thumbnail has no colour at all, but something to see on a bright ground."""
    sample = _sample(rgb).astype(np.int16)  # (n, 3)
    colour = np.percentile(np.ptp(sample, axis=1), 99.9)
    dark, bright = np.percentile(sample, (1, 50))
    return bool(colour <= 4 and bright > 127 and bright - dark > 20)


def glass_colour(rgb: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Colour (3,) of the glass in a thumbnail; None if no bright, pale ground is found.

    It is the brightest peak among bright pixels. Pure white is passed over: it is what a scanner
    did not scan.
    """
    sample = _sample(rgb).astype(np.int16)  # (n, 3)
    level = sample.mean(axis=1)  # (n,)
    pale = (sample.min(axis=1) >= GLASS_LEVEL) & (level < 253) & (np.ptp(sample, 1) <= GLASS_TINT)
    if not pale.any():
        return None
    counts = np.bincount(level[pale].astype(int), minlength=256)
    counts = np.convolve(counts, np.ones(5, int), "same")  # (256,)
    peak = int(np.flatnonzero(counts >= _GLASS_PEAK * counts.max()).max())
    while counts[peak - 1] > counts[peak]:
        peak -= 1
    glass: NDArray[np.float64] = np.median(sample[pale & (np.abs(level - peak) <= 4)], axis=0)
    return glass


def _sample(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """About a million pixels (n, 3), evenly spread."""
    step = max(1, int(np.sqrt(rgb.shape[0] * rgb.shape[1] / _SAMPLE_PX)))
    return rgb[::step, ::step].reshape(-1, 3)


def _colourfulness(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Largest minus smallest channel (h, w), with the tint of the glass taken away."""
    glass = glass_colour(rgb)
    gains = np.ones(3) if glass is None else glass.max() / glass
    table = np.minimum(np.arange(256)[:, None] * gains + 0.5, 255).astype(np.uint8)  # (256, 3)
    colour = np.empty(rgb.shape[:2], np.uint8)
    for top in range(0, len(rgb), _BAND_ROWS):
        part = table[rgb[top : top + _BAND_ROWS], np.arange(3)]  # (b, w, 3)
        colour[top : top + _BAND_ROWS] = part.max(axis=2) - part.min(axis=2)
    return colour


def _threshold(colour: NDArray[np.uint8], settings: TissueSettings) -> float:
    """Colourfulness from 0 to 1 above which a pixel is tissue."""
    if settings.saturation_threshold is not None and settings.method == "threshold":
        return settings.saturation_threshold
    low, high = OTSU_RANGE
    counts = np.zeros(256, np.int64)
    for top in range(0, len(colour), _BAND_ROWS):  # bincount copies what it counts as int64
        counts += np.bincount(colour[top : top + _BAND_ROWS].ravel(), minlength=256)
    otsu, _ = _split(counts)
    pale, separation = _split(counts[: otsu + 1])
    if separation >= PALE_SEPARATION and counts[pale + 1 : otsu + 1].sum() >= (
        PALE_SHARE * colour.size
    ):
        otsu = pale
    return float(np.clip(otsu / 255, low, high))


def _split(counts: NDArray[np.int64]) -> tuple[int, float]:
    """Otsu's threshold of a histogram, and the share of its variance that the split explains."""
    levels = np.arange(len(counts))
    if np.count_nonzero(counts) < 2:
        return int(np.argmax(counts)), 0.0
    threshold = int(threshold_otsu(hist=(counts, levels)))  # type: ignore[no-untyped-call]
    mean = np.average(levels, weights=counts)
    whole = np.average((levels - mean) ** 2, weights=counts)
    above = levels > threshold
    share = counts[above].sum() / counts.sum()
    if not 0 < share < 1:
        return threshold, 0.0
    distance = np.average(levels[above], weights=counts[above]) - np.average(
        levels[~above], weights=counts[~above]
    )
    return threshold, float(share * (1 - share) * distance**2 / whole)


def _drop_small(
    mask: NDArray[np.bool_], min_px: float, *, keep_at_edge: bool = False
) -> NDArray[np.bool_]:
    """The mask without its connected pieces of fewer pixels, but for those at the edge."""
    labels, pieces = ndimage.label(mask)
    sizes = np.zeros(pieces + 1, np.int64)  # (pieces + 1,)
    for top in range(0, len(labels), _BAND_ROWS):
        sizes += np.bincount(labels[top : top + _BAND_ROWS].ravel(), minlength=pieces + 1)
    keep = sizes >= min_px
    if keep_at_edge:
        for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
            keep[edge] = True
    keep[0] = False  # label 0 is the background
    kept: NDArray[np.bool_] = keep[labels]
    return kept
