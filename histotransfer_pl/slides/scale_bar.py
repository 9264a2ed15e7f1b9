"""Scale bars: how long a line of round length is, and a picture with one."""

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_STEPS = (1, 2, 5, 10)
_INK = (17, 24, 39)
_PAPER = (255, 255, 255)


def round_length_um(width_um: float, share: float = 0.25) -> float:
    """The longest of 1, 2, 5, 10, 20, ... micrometres that is at most a share of a width.

    Args:
        width_um: Width of the picture in micrometres.
        share: Largest share of the width that the bar may take.

    Example:
        >>> round_length_um(3000.0)
        500.0
    """
    longest = width_um * share
    decade = 10.0 ** math.floor(math.log10(longest))
    return max(step * decade for step in _STEPS if step * decade <= longest * (1 + 1e-9))


def length_in_words(length_um: float) -> str:
    """A length in micrometres, from 1,000 on in millimetres.

    Example:
        >>> length_in_words(500.0), length_in_words(2000.0)
        ('500 µm', '2 mm')
    """
    return f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"


@cache
def label_font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans as matplotlib ships it; Pillow's own letters lack the micro sign."""
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return ImageFont.load_default(size_px)
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(folder / "DejaVuSans.ttf", size_px)


def draw_scale_bar(picture: Image.Image, mpp: float, text_px: int = 0) -> Image.Image:
    """The picture with a scale bar in its lower left corner, on a white field.

    Args:
        picture: RGB.
        mpp: Micrometres per pixel of the picture.
        text_px: Height of the letters; a part of the picture's by default.
    """
    length_um = round_length_um(picture.width * mpp, 0.3)
    length_px = round(length_um / mpp)
    size = text_px or max(11, round(min(picture.size) / 45))
    edge, thick = max(3, size // 3), max(2, size // 5)
    words = length_in_words(length_um)
    font = label_font(size)
    text_px = round(font.getlength(words))
    with_bar = picture.copy()
    draw = ImageDraw.Draw(with_bar)
    inner_px = max(length_px, text_px)
    height_px = size + thick + 3 * edge
    top = picture.height - height_px - edge
    draw.rectangle((edge, top, inner_px + 3 * edge, picture.height - edge), fill=_PAPER)
    draw.text((2 * edge, top + edge // 2), words, fill=_INK, font=font)
    foot = picture.height - 2 * edge
    draw.rectangle((2 * edge, foot - thick, 2 * edge + length_px - 1, foot - 1), fill=_INK)
    return with_bar
