"""From a slide to its patches: thumbnail, tissue mask, grid."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.slides.grid import (
    grid_bytes,
    patch_grid_with_tissue,
    patch_size_level0,
    require_no_enlarging,
)
from histotransfer_pl.slides.limits import require_memory, slide_errors
from histotransfer_pl.slides.outlines import mask_from_geojson
from histotransfer_pl.slides.reader import SlideReader
from histotransfer_pl.slides.tissue import is_grey, tissue_mask


@dataclass(frozen=True)
class TiledSlide:
    """The patches of one slide and what they were chosen from.

    Attributes:
        coords: (N, 2) int32 level-0 pixels x, y of the top-left corners, row by row.
        patch_size_level0: Side of a patch in level-0 pixels, maybe fractional.
        slide_mpp: Micrometres per pixel of level 0.
        dimensions_level0: Width and height of the slide.
        tissue_fraction: (N,) float32 share of tissue in each patch.
        thumbnail: (h, w, 3) uint8 RGB the tissue was found in.
        thumbnail_mpp: Micrometres per pixel of the thumbnail.
        mask: (h, w) bool, True where there is tissue.
        reason: Why there is no patch; empty if there are some.
    """

    coords: NDArray[np.int32]
    patch_size_level0: float
    slide_mpp: float
    dimensions_level0: tuple[int, int]
    tissue_fraction: NDArray[np.float32]
    thumbnail: NDArray[np.uint8]
    thumbnail_mpp: float
    mask: NDArray[np.bool_]
    reason: str = ""


def tile_slide(
    reader: SlideReader, settings: GridSettings, tissue_geojson: str | Path | None = None
) -> TiledSlide:
    """Finds the patches of a slide.

    Args:
        reader: The slide.
        settings: Size, overlap and tissue of the patches.
        tissue_geojson: Outlines drawn by hand; they replace the tissue found by colour.

    Returns:
        The patches; none, with the reason, if the slide is too small or without tissue.

    Raises:
        SlideError: If the slide or the outlines cannot be read, the slide is coarser than its
            patches, or it takes too much memory.
    """
    require_no_enlarging(reader.path, reader.mpp, settings)
    with slide_errors(reader.path):
        return _tile_slide(reader, settings, tissue_geojson)


def _tile_slide(
    reader: SlideReader, settings: GridSettings, tissue_geojson: str | Path | None
) -> TiledSlide:
    # Finer than the slide itself there is nothing to see.
    mpp = max(settings.tissue.mpp, reader.mpp)
    thumbnail = reader.thumbnail(mpp)
    if tissue_geojson is None:
        mask = tissue_mask(thumbnail, mpp, settings.tissue)
    else:
        height, width = thumbnail.shape[:2]
        mask = mask_from_geojson(
            tissue_geojson, (height, width), mpp / reader.mpp, reader.qupath_origin
        )
    need = grid_bytes(len(mask), reader.mpp, reader.dimensions_level0, settings)
    what = f"a grid of patches of {settings.patch_px} px at {settings.mpp:g} um"
    require_memory(reader.path, what, need, reader.memory_gib)
    coords, fraction = patch_grid_with_tissue(
        mask, mpp, reader.mpp, reader.dimensions_level0, settings
    )
    return TiledSlide(
        coords=coords,
        patch_size_level0=patch_size_level0(settings.patch_px, settings.mpp, reader.mpp),
        slide_mpp=reader.mpp,
        dimensions_level0=reader.dimensions_level0,
        tissue_fraction=fraction,
        thumbnail=thumbnail,
        thumbnail_mpp=mpp,
        mask=mask,
        reason="" if len(coords) else _reason(reader, thumbnail, mask, settings),
    )


def _reason(
    reader: SlideReader,
    thumbnail: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    settings: GridSettings,
) -> str:
    """Why a slide has no patch."""
    side = patch_size_level0(settings.patch_px, settings.mpp, reader.mpp)
    width, height = reader.dimensions_level0
    if side > min(width, height):
        return f"slide of {width} x {height} px is smaller than a patch of {side:.0f} px"
    if not mask.any():
        method = settings.tissue.method
        if method in ("otsu", "threshold") and is_grey(thumbnail):
            return (
                f"no tissue found (method {method}): the slide has no colour; set tissue.method to "
                "non_white, with a tissue.white_level below its glass"
            )
        return f"no tissue found (method {method})"
    return f"no patch holds {settings.min_tissue:.0%} of tissue"
