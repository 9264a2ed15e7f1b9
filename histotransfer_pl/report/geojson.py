"""Attention as GeoJSON that QuPath opens: one tile per patch, in its place on the slide."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.data.selection import highest
from histotransfer_pl.report.attention_scale import (
    TOP_CLASS,
    TOP_COLOUR,
    AttentionScale,
    top_attention,
)


def attention_geojson(
    coords: NDArray[np.int32],
    patch_size_level0: float,
    relative: NDArray[np.float64],
    top_k: int,
    origin_level0: tuple[int, int] = (0, 0),
    scale: AttentionScale | None = None,
) -> dict[str, Any]:
    """A FeatureCollection of tiles with the measurements attention, rank and percentile.

    Tiles have the colours of ``AttentionScale``, as in every picture of the slide.

    Args:
        coords: (N, 2) level-0 pixels of the top-left corners.
        patch_size_level0: Side of a patch in level-0 pixels.
        relative: (N,) attention in multiples of uniform.
        top_k: At most so many patches get the class ``Top attention``, see ``top_attention``.
        origin_level0: The level-0 pixel that QuPath calls (0, 0), see ``slides.outlines``.
        scale: The colours; the common scale by default.
    """
    colours = (scale or AttentionScale()).colours(relative)  # (N, 3)
    top = top_attention(relative, top_k)  # (N,)
    order = highest(relative, len(relative))  # (N,)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    features = [
        _tile(
            x - origin_level0[0],
            y - origin_level0[1],
            patch_size_level0,
            {
                "Attention (multiples of uniform)": float(value),
                "Attention rank": int(place),
                "Attention percentile": 100 * (len(rank) - int(place) + 0.5) / len(rank),
            },
            colour=colours[row].tolist(),
            top=bool(top[row]),
        )
        for row, ((x, y), value, place) in enumerate(
            zip(coords.tolist(), relative, rank, strict=True)
        )
    ]
    return {"type": "FeatureCollection", "features": features}


def _tile(
    x: float,
    y: float,
    side: float,
    measurements: dict[str, float],
    *,
    colour: list[int],
    top: bool,
) -> dict[str, Any]:
    corners = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    properties: dict[str, Any] = {"objectType": "tile", "measurements": measurements}
    properties["color"] = colour
    if top:
        properties["classification"] = {"name": TOP_CLASS, "color": list(TOP_COLOUR)}
    geometry = {"type": "Polygon", "coordinates": [corners]}
    return {"type": "Feature", "geometry": geometry, "properties": properties}
