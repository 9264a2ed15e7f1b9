"""Areas drawn by hand, as QuPath exports them, on the grid of a mask."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from histotransfer_pl.errors import SlideError


def qupath_origin(properties: Mapping[str, str]) -> tuple[int, int]:
    """The level-0 pixel that is QuPath's (0, 0).

    Some scanners (MIRAX, Leica) leave a wide empty rim. OpenSlide keeps it and says where the
    scanned part begins; QuPath cuts it off when it opens such a slide.
    """
    x, y = (int(properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
    return x, y


def mask_from_geojson(
    path: str | Path,
    shape: tuple[int, int],
    pixel_level0: float,
    origin_level0: tuple[int, int] = (0, 0),
) -> NDArray[np.bool_]:
    """Mask of the areas drawn in a GeoJSON file, as QuPath exports them.

    Args:
        path: A FeatureCollection, a Feature, a geometry or a list of them; every Polygon and
            MultiPolygon counts, in level-0 pixels from the origin; points and lines do not.
        shape: Height and width of the mask.
        pixel_level0: Side of a mask pixel in level-0 pixels.
        origin_level0: The level-0 pixel that the file calls (0, 0), see ``qupath_origin``.

    Returns:
        (h, w), True where a pixel's centre lies inside a polygon and outside its holes.
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
        fill_polygon(mask, [(ring + origin_level0) / pixel_level0 for ring in rings])
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
