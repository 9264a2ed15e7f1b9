"""Where a slide shows tissue: a mask from the colours of a thumbnail, or from drawn outlines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon2mask
from skimage.filters import threshold_otsu

from histotransfer_pl.errors import SlideError
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


def mask_from_geojson(
    path: str | Path, shape: tuple[int, int], pixel_level0: float
) -> NDArray[np.bool_]:
    """Mask of the areas drawn in a GeoJSON file, as QuPath exports them.

    Args:
        path: A FeatureCollection, a Feature, a geometry or a list of them; every Polygon and
            MultiPolygon counts, in level-0 pixels. Points and lines are passed over.
        shape: Height and width of the mask.
        pixel_level0: Side of a mask pixel in level-0 pixels.

    Returns:
        (h, w), True where a pixel's centre lies inside a polygon and outside its holes.

    Raises:
        SlideError: If the file cannot be read or draws no area.
    """
    path = Path(path)
    try:
        polygons = list(_polygons(json.loads(path.read_text(encoding="utf-8"))))
        outlines = [[np.asarray(ring, float)[:, :2] for ring in rings] for rings in polygons]
    except OSError as error:
        raise SlideError(f"tissue outline {path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise SlideError(
            f"tissue outline {path} is not GeoJSON ({error}); export the annotations from QuPath "
            "with File > Export objects as GeoJSON"
        ) from error
    if not outlines:
        raise SlideError(f"tissue outline {path} has no Polygon or MultiPolygon; draw an area")
    mask = np.zeros(shape, np.bool_)
    for rings in outlines:
        fill_polygon(mask, [ring / pixel_level0 for ring in rings])
    return mask


def _polygons(item: Any) -> Iterator[list[Any]]:
    """Every polygon in a GeoJSON value as a list of rings, the first one the outline."""
    if isinstance(item, list):
        for part in item:
            yield from _polygons(part)
        return
    match item["type"]:
        case "FeatureCollection":
            yield from _polygons(item["features"])
        case "Feature":
            yield from _polygons(item["geometry"])
        case "GeometryCollection":
            yield from _polygons(item["geometries"])
        case "Polygon":
            yield item["coordinates"]
        case "MultiPolygon":
            yield from item["coordinates"]


def fill_polygon(mask: NDArray[np.bool_], rings: list[NDArray[np.float64]]) -> None:
    """Sets the inside of one polygon, in place and only in the polygon's bounding box.

    Args:
        mask: (h, w).
        rings: Outline and holes, each (n, 2) x, y in mask pixels; a pixel is inside if its
            centre is.
    """
    outline = rings[0]
    low = np.maximum(np.floor(outline.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(outline.max(axis=0)), mask.shape[::-1]).astype(int)
    if np.any(high <= low):
        return
    size = (int(high[1] - low[1]), int(high[0] - low[0]))
    # Pixel i has its centre at i + 0.5, scikit-image puts it at i.
    shifted = [(ring - low - 0.5)[:, ::-1] for ring in rings]
    masks = [polygon2mask(size, ring) for ring in shifted]  # type: ignore[no-untyped-call]
    inside = masks[0] & ~np.any(masks[1:], axis=0) if masks[1:] else masks[0]
    mask[low[1] : high[1], low[0] : high[0]] |= inside
