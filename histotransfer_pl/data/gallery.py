"""One picture of the selected patches of a slide."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_COLUMNS = 8
_CAPTION_PX = 14
_LEAST_PX = 96
_UNREADABLE = (200, 200, 200)


def draw_gallery(
    patches: Sequence[NDArray[np.uint8] | None], captions: Sequence[str]
) -> Image.Image:
    """Patches in the order of their rank, line by line, with a caption below each.

    Args:
        patches: (P, P, 3) each; None for one that cannot be read, drawn grey.
        captions: One a patch.
    """
    sides = [patch.shape[0] for patch in patches if patch is not None]
    side = max([_LEAST_PX, *sides])
    columns = min(_COLUMNS, len(patches))
    lines = -(-len(patches) // columns)
    page = Image.new("RGB", (columns * side, lines * (side + _CAPTION_PX)), "white")
    pen = ImageDraw.Draw(page)
    for place, (patch, caption) in enumerate(zip(patches, captions, strict=True)):
        left, top = place % columns * side, place // columns * (side + _CAPTION_PX)
        if patch is None:
            page.paste(_UNREADABLE, (left, top, left + side, top + side))
        else:
            image = Image.fromarray(patch).resize((side, side), Image.Resampling.BICUBIC)
            page.paste(image, (left, top))
        pen.text((left + 2, top + side + 1), caption, fill="black")
    return page
