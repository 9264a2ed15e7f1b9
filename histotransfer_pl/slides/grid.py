"""Where the patches of a slide lie: from a tissue mask to level-0 coordinates.

A patch is addressed by the level-0 pixel of its top-left corner. Its side in level-0 pixels,
``patch_px * mpp / slide_mpp``, may be fractional; corners are the exact positions rounded to
the nearest pixel (halves up), so that rounding never adds up along a row.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import SlideError
from histotransfer_pl.records.grid import GridSettings

SAME_MPP = 1e-6
"""Relative difference up to which two resolutions are one: no resampling between them."""

MAX_ENLARGING = 1.1
"""How much coarser than its patches a slide may be: scanners of one nominal magnification write
.23 to .27 um."""

_BAND_ROWS = 256


def require_no_enlarging(path: Path, slide_mpp: float, settings: GridSettings) -> None:
    """Refuse a slide whose pixels would be enlarged, which no encoder was trained on.

    Args:
        path: Names the slide.
        slide_mpp: Resolution of its level 0.
        settings: The patches; ``allow_enlarging`` lets it pass.

    Raises:
        SlideError: If the slide is coarser than its patches by more than 10 %.
    """
    factor = slide_mpp / settings.mpp
    if factor > MAX_ENLARGING and not settings.allow_enlarging:
        raise SlideError(
            f"slide {path} has {slide_mpp:.4g} um per pixel: patches at {settings.mpp:g} um would "
            f"be enlarged {factor:.3g} times; check the mpp, ask for patches of {slide_mpp:.4g} um "
            "with data.grid.mpp, or set data.grid.allow_enlarging to true"
        )


def patch_size_level0(patch_px: int, mpp: float, slide_mpp: float) -> float:
    """Side of a patch in level-0 pixels; exactly ``patch_px`` if the resolutions are one."""
    if abs(mpp / slide_mpp - 1) <= SAME_MPP:
        return float(patch_px)
    return patch_px * mpp / slide_mpp


def grid_bytes(
    mask_rows: int, slide_mpp: float, dimensions_level0: tuple[int, int], settings: GridSettings
) -> float:
    """Memory that a slide's grid takes while the tissue of its patches is counted."""
    step = patch_size_level0(settings.patch_px - settings.overlap_px, settings.mpp, slide_mpp)
    columns, rows = (side / step + 2 for side in dimensions_level0)
    # Sums over the mask's rows and over patches in float64, twice; then coordinates and shares.
    return 16 * columns * mask_rows + 48 * columns * rows


def patch_corners(
    length_level0: int, slide_mpp: float, settings: GridSettings
) -> NDArray[np.int64]:
    """Corners along one axis of a slide, for patches that lie inside it as a whole.

    Args:
        length_level0: Width or height of the slide in level-0 pixels.
        slide_mpp: Resolution of level 0.
        settings: Size and overlap of the patches.

    Returns:
        (n,) ascending level-0 pixels, the first 0; empty if not even one patch fits.
    """
    side = patch_size_level0(settings.patch_px, settings.mpp, slide_mpp)
    step = patch_size_level0(settings.patch_px - settings.overlap_px, settings.mpp, slide_mpp)
    room = length_level0 - side
    if room < -SAME_MPP:
        return np.zeros(0, np.int64)
    exact = np.arange(int(room / step) + 2) * step
    corners = np.floor(exact + 0.5).astype(np.int64)
    # A patch finer than a level-0 pixel would otherwise come twice.
    return np.unique(corners[corners <= room + SAME_MPP])


def tissue_fractions(
    mask: NDArray[np.bool_],
    pixel_level0: float,
    x_level0: NDArray[np.int64],
    y_level0: NDArray[np.int64],
    side_level0: float,
) -> NDArray[np.float64]:
    """Exact share of tissue in every patch of a grid.

    The integral of the mask is piecewise linear along each axis, so linear interpolation of
    its cumulative sums gives the area under fractional boxes without any error.

    Args:
        mask: (h, w), True where there is tissue.
        pixel_level0: Side of a mask pixel in level-0 pixels.
        x_level0: (nx,) left edges of the columns.
        y_level0: (ny,) top edges of the rows.
        side_level0: Side of a patch.

    Returns:
        (ny, nx) shares from 0 to 1; what lies outside the mask is no tissue.
    """
    # In bands: the sums take 16 times the memory of the mask, which is large already.
    bands = [mask[top : top + _BAND_ROWS] for top in range(0, len(mask), _BAND_ROWS)]
    columns = np.concatenate(
        [_box_sums(b.astype(np.float64), x_level0, side_level0, pixel_level0) for b in bands]
    )  # (h, nx)
    boxes = _box_sums(columns.T, y_level0, side_level0, pixel_level0).T  # (ny, nx)
    # Cumulative sums leave rounding dust around 0 and 1.
    return np.clip(boxes * (pixel_level0 / side_level0) ** 2, 0.0, 1.0)


def _box_sums(
    values: NDArray[np.float64], start_level0: NDArray[np.int64], side: float, pixel: float
) -> NDArray[np.float64]:
    """Integral of each row of ``values`` (h, w) from every start over ``side``: (h, n)."""
    height, width = values.shape
    integral = np.zeros((height, width + 1))
    np.cumsum(values, axis=1, out=integral[:, 1:])

    def up_to(edge: NDArray[np.floating]) -> NDArray[np.float64]:
        place = np.clip(edge / pixel, 0, width)
        left = np.minimum(place.astype(np.int64), max(width - 1, 0))
        part = place - left
        sums: NDArray[np.float64] = integral[:, left] * (1 - part) + integral[:, left + 1] * part
        return sums

    return up_to(start_level0 + side) - up_to(start_level0.astype(np.float64))


def patch_grid_with_tissue(
    mask: NDArray[np.bool_],
    mask_mpp: float,
    slide_mpp: float,
    dimensions_level0: tuple[int, int],
    settings: GridSettings,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """As ``patch_grid``, with the share of tissue of every patch kept: (N, 2) and (N,)."""
    width, height = dimensions_level0
    x = patch_corners(width, slide_mpp, settings)
    y = patch_corners(height, slide_mpp, settings)
    side = patch_size_level0(settings.patch_px, settings.mpp, slide_mpp)
    shares = tissue_fractions(mask, mask_mpp / slide_mpp, x, y, side)  # (ny, nx)
    rows, columns = np.nonzero(shares >= settings.min_tissue - 1e-9)
    coords = np.stack([x[columns], y[rows]], axis=1).astype(np.int32)
    return coords, shares[rows, columns].astype(np.float32)


def patch_grid(
    mask: NDArray[np.bool_],
    mask_mpp: float,
    slide_mpp: float,
    dimensions_level0: tuple[int, int],
    settings: GridSettings,
) -> NDArray[np.int32]:
    """The patches of a slide that hold enough tissue.

    Args:
        mask: (h, w), True where there is tissue; its pixel (0, 0) starts at level-0 (0, 0).
        mask_mpp: Micrometres per pixel of the mask.
        slide_mpp: Micrometres per pixel of level 0.
        dimensions_level0: Width and height of the slide.
        settings: Size, overlap and smallest share of tissue.

    Returns:
        (N, 2) level-0 pixels x, y of the top-left corners, row by row from (0, 0).
    """
    return patch_grid_with_tissue(mask, mask_mpp, slide_mpp, dimensions_level0, settings)[0]
