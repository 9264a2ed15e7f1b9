"""Attention on a slide: every patch in its place on the thumbnail."""

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from histotransfer_pl.report.figure import SEQUENTIAL

_OPACITY = 0.65


@dataclass(frozen=True, eq=False)
class Overlay:
    """A thumbnail with attention, and the scale of its colours.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        low: Relative attention at the dark end.
        high: Relative attention at the bright end; equal to ``low`` if all patches weigh the same.
    """

    pixels: NDArray[np.uint8]
    low: float
    high: float


def thumbnail_mpp(dimensions_level0: tuple[int, int], slide_mpp: float, long_side_px: int) -> float:
    """Resolution at which the long side has so many pixels, but never finer than the slide."""
    return max(slide_mpp, slide_mpp * max(dimensions_level0) / long_side_px)


def patch_boxes(
    coords: NDArray[np.integer], patch_size_level0: float, slide_mpp: float, mpp: float
) -> NDArray[np.int64]:
    """Where patches lie on a thumbnail.

    Pixel (i, j) of a thumbnail covers the square of ``mpp / slide_mpp`` level-0 pixels that
    starts at that many times (j, i). Edges go to the nearest pixel border, so that patches that
    touch on the slide touch here.

    Args:
        coords: (N, 2) level-0 pixels x, y of the top-left corners.
        patch_size_level0: Side of a patch in level-0 pixels.
        slide_mpp: Micrometres per pixel of level 0.
        mpp: Micrometres per pixel of the thumbnail.

    Returns:
        (N, 4) left, top, right, bottom in thumbnail pixels, right and bottom exclusive; at least
        one pixel wide.
    """
    pixel_level0 = mpp / slide_mpp
    start = np.floor(coords / pixel_level0 + 0.5).astype(np.int64)  # (N, 2)
    end = np.floor((coords + patch_size_level0) / pixel_level0 + 0.5).astype(np.int64)  # (N, 2)
    return np.concatenate([start, np.maximum(end, start + 1)], axis=1)  # (N, 4)


def value_map(
    shape: tuple[int, int], boxes: NDArray[np.int64], values: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Values on the pixels of a thumbnail; where patches overlap, their mean.

    Args:
        shape: Height and width of the thumbnail.
        boxes: (N, 4) as ``patch_boxes`` gives them.
        values: (N,) one a patch.

    Returns:
        (h, w), NaN where there is no patch.
    """
    total, count = np.zeros(shape), np.zeros(shape)
    for (left, top, right, bottom), value in zip(boxes, values, strict=True):
        total[top:bottom, left:right] += value
        count[top:bottom, left:right] += 1
    values_there: NDArray[np.float64] = np.full(shape, np.nan)
    np.divide(total, count, out=values_there, where=count > 0)
    return values_there


def relative_attention(weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """Attention (N,) in multiples of what each patch would get if all weighed the same."""
    weights = weights.astype(np.float64)
    total = weights.sum()
    return weights * len(weights) / total if total > 0 else np.ones_like(weights)


def draw_overlay(
    thumbnail: NDArray[np.uint8], boxes: NDArray[np.int64], relative: NDArray[np.float64]
) -> Overlay:
    """Attention over the thumbnail in grey.

    Colours follow the logarithm, because attention is a softmax and spans powers of ten; the
    scale runs from the 1st to the 99th percentile of the slide's patches.

    Args:
        thumbnail: (h, w, 3) uint8 RGB.
        boxes: (N, 4) as ``patch_boxes`` gives them.
        relative: (N,) attention in multiples of uniform.
    """
    logs = np.log2(np.maximum(relative, 2.0**-20))  # (N,)
    low, high = (float(v) for v in np.percentile(logs, [1, 99], method="nearest"))
    span = high - low
    scaled = np.clip((logs - low) / span, 0, 1) if span > 1e-9 else np.full_like(logs, 0.5)
    places = value_map(thumbnail.shape[:2], boxes, scaled)  # (h, w)
    colours = colormaps[SEQUENTIAL](np.nan_to_num(places))[..., :3] * 255  # (h, w, 3)
    grey = np.repeat(thumbnail.mean(axis=2, keepdims=True), 3, axis=2)  # (h, w, 3)
    mixed = np.where(np.isnan(places)[..., None], grey, _OPACITY * colours + (1 - _OPACITY) * grey)
    pixels = np.round(mixed).astype(np.uint8)
    return Overlay(pixels, float(2**low), float(2**high) if span > 1e-9 else float(2**low))
