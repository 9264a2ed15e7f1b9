"""The picture by which one sees whether a slide was tiled as it should be."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import find_contours

from histotransfer_pl.slides.tiling import TiledSlide

_LONG_SIDE_PX = 1200
_OUTLINE = (0, 150, 60)
_GRID = (20, 60, 220)


def draw_qc(tiled: TiledSlide, title: str = "") -> Image.Image:
    """Thumbnail with the outline of the tissue (green) and every patch (blue); the rest is paled.

    Args:
        tiled: A tiled slide; one without patches is drawn too, with the reason.
        title: Put before the counts, such as the slide's name.

    Returns:
        An RGB picture of about 1,200 px on its long side, with a line of text above.
    """
    height, width = tiled.mask.shape
    # Whole factors up keep the mask's pixels square; large thumbnails are scaled down.
    factor = _LONG_SIDE_PX / max(height, width)
    factor = float(round(factor)) if factor > 1.5 else factor
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    picture = Image.fromarray(_pale_where_unused(tiled)).resize(size, Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    _draw_patches(draw, tiled, factor)
    _draw_outline(draw, tiled, factor)
    return _with_caption(picture, _caption(tiled, title))


def _pale_where_unused(tiled: TiledSlide) -> NDArray[np.uint8]:
    """The thumbnail, half faded to white where no patch lies."""
    pixel = tiled.thumbnail_mpp / tiled.slide_mpp
    used = np.zeros(tiled.mask.shape, np.bool_)
    low = np.round(tiled.coords / pixel).astype(int)
    high = np.round((tiled.coords + tiled.patch_size_level0) / pixel).astype(int)
    for (left, top), (right, bottom) in zip(low, high, strict=True):
        used[top:bottom, left:right] = True
    pale = 128 + tiled.thumbnail // 2
    return np.where(used[:, :, None], tiled.thumbnail, pale).astype(np.uint8)


def _draw_patches(draw: ImageDraw.ImageDraw, tiled: TiledSlide, factor: float) -> None:
    scale = factor * tiled.slide_mpp / tiled.thumbnail_mpp
    side = tiled.patch_size_level0
    for x, y in tiled.coords.tolist():
        box = [round(edge * scale) for edge in (x, y, x + side, y + side)]
        draw.rectangle(box, outline=_GRID, width=1)


def _draw_outline(draw: ImageDraw.ImageDraw, tiled: TiledSlide, factor: float) -> None:
    # A rim of zeros closes outlines at the edge of the slide.
    padded = np.pad(tiled.mask, 1).astype(float)
    contours = find_contours(padded, 0.5)  # type: ignore[no-untyped-call]
    for contour in contours:
        points = [((column - 0.5) * factor, (row - 0.5) * factor) for row, column in contour]
        draw.line(points, fill=_OUTLINE, width=3, joint="curve")


def _caption(tiled: TiledSlide, title: str) -> str:
    width, height = tiled.dimensions_level0
    parts = [
        f"{len(tiled.coords)} patches" if len(tiled.coords) else f"no patches: {tiled.reason}",
        f"{tiled.mask.mean():.0%} tissue",
        f"{width} x {height} px at {tiled.slide_mpp:.4g} um/px",
    ]
    return "  ·  ".join([title, *parts] if title else parts)


def _with_caption(picture: Image.Image, caption: str) -> Image.Image:
    font = ImageFont.load_default(size=20)
    left, _, right, _ = font.getbbox(caption)
    width = max(picture.width, round(right - left) + 16)
    page = Image.new("RGB", (width, picture.height + 36), (255, 255, 255))
    page.paste(picture, (0, 36))
    ImageDraw.Draw(page).text((8, 6), caption, fill=(0, 0, 0), font=font)
    return page
