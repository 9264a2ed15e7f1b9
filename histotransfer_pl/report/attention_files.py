"""The attention of one slide as files: GeoJSON for QuPath, a figure for print."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.data.tile import slide_file
from histotransfer_pl.records.files import write_text
from histotransfer_pl.report.attention_figure import SlideWords, attention_figure
from histotransfer_pl.report.attention_scale import relative_attention
from histotransfer_pl.report.geojson import attention_geojson
from histotransfer_pl.report.overlay import draw_overlay, patch_boxes, thumbnail_mpp
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.store.layout import encode_key
from histotransfer_pl.store.slide import StoredSlide

_LONG_SIDE_PX = 1200


def write_attention_files(
    slide: StoredSlide, weights: NDArray[np.floating], words: SlideWords, out: Path, top_k: int
) -> str:
    """Write ``<slide>.geojson``, ``<slide>.png`` and ``<slide>.svg``.

    Args:
        slide: The slide in a store.
        weights: Attention (N,).
        words: What stands above the picture.
        out: Folder to write.
        top_k: So many patches at most get a class of their own in QuPath.

    Raises:
        SlideError: The file cannot be read, or is another one than was tiled.
    """
    path = slide_file(slide)
    relative = relative_attention(weights)  # (N,)
    coords = slide.coords()
    side, mpp = float(slide.fact("patch_size_level0")), float(slide.fact("slide_mpp"))
    name = encode_key(slide.slide_id)
    with open_slide(path, mpp) as reader:
        content = attention_geojson(coords, side, relative, top_k, reader.qupath_origin)
        write_text(out / f"{name}.geojson", json.dumps(content))
        thumbnail_at = thumbnail_mpp(reader.dimensions_level0, mpp, _LONG_SIDE_PX)
        thumbnail = reader.thumbnail(thumbnail_at)  # (h, w, 3)
    boxes = patch_boxes(coords, side, mpp, thumbnail_at)  # (N, 4)
    overlay = draw_overlay(thumbnail, boxes, relative, top_k)  # (h, w, 3)
    attention_figure(thumbnail, overlay, thumbnail_at, words, name).write(out)
    return name
