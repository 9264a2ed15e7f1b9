"""Pictures to arrays: transparent parts on white, and exact areas at another size."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histotransfer_pl.slides.grid import SAME_MPP


def on_white(image: Image.Image) -> NDArray[np.uint8]:
    """An RGBA picture as (h, w, 3), writable; the parts that no scanner saw become white."""
    alpha = image.getchannel("A")
    if alpha.getextrema() != (255, 255):
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=alpha)
        image = white
    # Twice as fast as convert("RGB") and np.array. An array over Pillow's memory would be
    # read-only, of which torch warns.
    rgb = np.frombuffer(image.tobytes("raw", "RGB"), np.uint8)
    return rgb.reshape(image.height, image.width, 3).copy()


def resample(
    pixels: NDArray[np.uint8], area: tuple[float, float], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The top-left area of a picture at another size, each pixel the mean over its own area.

    Whole-number ratios take the exact mean. Elsewhere it is Pillow's filter nearest to the true
    mean, measured on a real slide: bilinear up to a ratio of 1.5 (0.3 to 1.6 grey levels off,
    Hamming 1.5 to 3.4), Hamming beyond (0.7 to 1.5, bilinear 2 to 4, box 1 to 4).

    Args:
        pixels: (h, w, 3).
        area: Width and height of the part that is wanted, in its pixels, maybe fractional.
        size: Width and height of the result.

    Returns:
        (height, width, 3); the very same array if nothing changes.
    """
    height, width = pixels.shape[:2]
    ratio = area[0] / size[0]
    factor = round(ratio)
    whole_size = (size[0] * factor, size[1] * factor)
    whole = abs(ratio - factor) <= SAME_MPP and (width, height) == whole_size
    if whole and factor == 1:
        return pixels
    image = Image.fromarray(pixels)
    if whole:
        return np.array(image.reduce(factor))
    filter_ = Image.Resampling.BILINEAR if ratio < 1.5 else Image.Resampling.HAMMING
    box = (0, 0, min(area[0], width), min(area[1], height))
    return np.array(image.resize(size, filter_, box=box))
