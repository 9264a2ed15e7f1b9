"""Attention on a slide: every patch in its place on the thumbnail."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from histotransfer_pl.report.attention_scale import (
    ATTENTION_COLOURS,
    TOP_COLOUR,
    AttentionScale,
    top_attention,
)

_OPACITY = 0.75


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
        values: (N,) one per patch.

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


def draw_overlay(
    thumbnail: NDArray[np.uint8],
    boxes: NDArray[np.int64],
    relative: NDArray[np.float64],
    top_k: int = 0,
    scale: AttentionScale | None = None,
) -> NDArray[np.uint8]:
    """Attention over the thumbnail in pale grey, so that the colours stay those of the scale.

    Args:
        thumbnail: (h, w, 3) uint8 RGB.
        boxes: (N, 4) as ``patch_boxes`` gives them.
        relative: (N,) attention in multiples of uniform.
        top_k: At most so many patches of top attention are outlined.
        scale: The colours; the common scale by default.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    scale = scale or AttentionScale()
    places = value_map(thumbnail.shape[:2], boxes, scale.position(relative))  # (h, w)
    colours = ATTENTION_COLOURS(np.nan_to_num(places))[..., :3] * 255  # (h, w, 3)
    tissue = 128 + thumbnail.mean(axis=2, keepdims=True).repeat(3, axis=2) / 2  # (h, w, 3)
    blended = _OPACITY * colours + (1 - _OPACITY) * tissue
    mixed = np.where(np.isnan(places)[..., None], tissue, blended)
    pixels: NDArray[np.uint8] = np.round(mixed).clip(0, 255).astype(np.uint8)
    outline = _outline(thumbnail.shape[:2], boxes[top_attention(relative, top_k)])  # (h, w)
    pixels[outline] = TOP_COLOUR
    return pixels


def _outline(shape: tuple[int, int], boxes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The inner rim of the area (h, w) that some boxes cover together."""
    covered = ~np.isnan(value_map(shape, boxes, np.ones(len(boxes))))  # (h, w)
    if not covered.any():
        return covered
    width_px = max(1, round(max(shape) / 600))
    inner = binary_erosion(covered, iterations=width_px, border_value=0)  # (h, w)
    return np.asarray(covered & ~inner)
