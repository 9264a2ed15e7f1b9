"""The picture by which one sees whether a slide was tiled as it should be."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.measure import find_contours

from histotransfer_pl.slides.reader import SlideReader
from histotransfer_pl.slides.scale_bar import draw_scale_bar, label_font
from histotransfer_pl.slides.tiling import TiledSlide

_LONG_SIDE_PX = (640, 1600)
"""At least, for words and lines, and at most: a larger picture of a tiny slide shows no more."""
_OUTLINE = (0, 110, 45)
_GRID = (20, 60, 220)
_INK = (17, 24, 39)
_PAPER = (255, 255, 255)
_EDGE_PX = 12
_FONT_PX = 20
_PNG_END = b"\0\0\0\0IEND\xaeB\x60\x82"


def is_whole_png(path: Path) -> bool:
    """Whether a picture is there to its end; a kill or a full disk leaves a part."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:
        return False


def sharp_thumbnail(reader: SlideReader) -> NDArray[np.uint8]:
    """The slide (h, w, 3) as sharp as the picture shows it; the tissue is found in less."""
    return reader.thumbnail(max(reader.mpp, reader.mpp / picture_factor(reader.dimensions_level0)))


def picture_factor(dimensions: tuple[int, int]) -> float:
    """Pixels of the picture by those of a slide of this width and height."""
    least, most = _LONG_SIDE_PX
    side = max(dimensions)
    return min(max(side, least), most) / side


def tissue_covered(tiled: TiledSlide) -> float:
    """Share of the tissue that lies in patches, 0 to 1; 0 without tissue."""
    height, width = tiled.mask.shape
    used = _used(tiled, (width, height))  # (h, w)
    return float(used[tiled.mask].mean()) if tiled.mask.any() else 0.0


def draw_qc(
    tiled: TiledSlide, title: str = "", thumbnail: NDArray[np.uint8] | None = None
) -> Image.Image:
    """Slide with the outline of the tissue (green) and every patch (blue); the rest is paled.

    Args:
        tiled: A tiled slide; one without patches is drawn too, with the reason.
        title: Put before the counts, such as the slide's name.
        thumbnail: (h, w, 3) the slide, see ``sharp_thumbnail``; what the tissue was found in, if
            none is given.

    Returns:
        An RGB picture of 640 to 1,600 px on its long side, with a caption, a legend and a scale
        bar.
    """
    shown = Image.fromarray(tiled.thumbnail if thumbnail is None else thumbnail)
    width, height = tiled.dimensions_level0
    factor = picture_factor((width, height))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    picture = shown.resize(size, Image.Resampling.LANCZOS)
    pale = Image.blend(picture, Image.new("RGB", size, _PAPER), 0.55)
    picture = Image.composite(picture, pale, Image.fromarray(_used(tiled, size)))
    draw = ImageDraw.Draw(picture)
    _draw_patches(draw, tiled, factor)
    _draw_outline(draw, tiled, size)
    picture = draw_scale_bar(picture, tiled.slide_mpp / factor)
    return _with_words(picture, _captions(tiled, title))


def _used(tiled: TiledSlide, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Where patches lie (height, width) on a picture of the whole slide of this size."""
    width, height = size
    scale = np.array(size) / tiled.dimensions_level0  # (2,)
    used = np.zeros((height, width), np.bool_)
    low = np.round(tiled.coords * scale).astype(int)
    high = np.round((tiled.coords + tiled.patch_size_level0) * scale).astype(int)
    for (left, top), (right, bottom) in zip(low, high, strict=True):
        used[top:bottom, left:right] = True
    return used


def _draw_patches(draw: ImageDraw.ImageDraw, tiled: TiledSlide, factor: float) -> None:
    side = tiled.patch_size_level0
    for x, y in tiled.coords.tolist():
        box = [round(edge * factor) for edge in (x, y, x + side, y + side)]
        draw.rectangle(box, outline=_GRID, width=1)


def _draw_outline(draw: ImageDraw.ImageDraw, tiled: TiledSlide, size: tuple[int, int]) -> None:
    height, width = tiled.mask.shape
    across, down = size[0] / width, size[1] / height
    # A rim of zeros closes outlines at the edge of the slide.
    padded = np.pad(tiled.mask, 1).astype(float)
    contours = find_contours(padded, 0.5)  # type: ignore[no-untyped-call]
    for contour in contours:
        points = [((column - 0.5) * across, (row - 0.5) * down) for row, column in contour]
        draw.line(points, fill=_OUTLINE, width=4, joint="curve")


def _captions(tiled: TiledSlide, title: str) -> tuple[str, str]:
    width, height = tiled.dimensions_level0
    n = len(tiled.coords)
    counts = (
        f"{n:,} patch{'' if n == 1 else 'es'} cover {tissue_covered(tiled):.0%} of the tissue"
        if n
        else f"no patches: {tiled.reason}"
    )
    facts = f"{tiled.mask.mean():.0%} of the slide is tissue"
    extent = f"{width:,} × {height:,} px at {tiled.slide_mpp:.4g} µm/px"
    return title, "  ·  ".join([counts, facts, extent])


def _with_words(picture: Image.Image, captions: tuple[str, str]) -> Image.Image:
    """The picture under its title and facts, above a legend."""
    large, small = (label_font(size) for size in (_FONT_PX + 4, _FONT_PX))
    title, facts = captions
    legend = (("tissue", _OUTLINE, 4), ("patch", _GRID, 1), ("not used: paled", None, 1))
    swatch, row = _FONT_PX, _FONT_PX + _EDGE_PX
    spans = [2 * swatch + small.getlength(word) + 2 * _EDGE_PX for word, _, _ in legend]
    widest = max(large.getlength(title), small.getlength(facts), sum(spans))
    width = max(picture.width, round(widest) + 2 * _EDGE_PX)
    head = (row + _EDGE_PX if title else _EDGE_PX) + row
    page = Image.new("RGB", (width, head + picture.height + row + _EDGE_PX), _PAPER)
    page.paste(picture, (0, head))
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((_EDGE_PX, _EDGE_PX), title, fill=_INK, font=large)
    draw.text((_EDGE_PX, head - row), facts, fill=_INK, font=small)
    x, y = float(_EDGE_PX), head + picture.height + _EDGE_PX
    for (word, colour, thick), span in zip(legend, spans, strict=True):
        box = (x, y, x + swatch, y + swatch)
        fill = None if colour else (225, 205, 220)
        draw.rectangle(box, outline=colour, fill=fill, width=thick)
        draw.text((x + swatch + _EDGE_PX / 2, y - 2), word, fill=_INK, font=small)
        x += span
    return page
