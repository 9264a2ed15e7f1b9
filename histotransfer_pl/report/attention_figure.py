"""One slide's attention as a figure for print: slide, attention, colour bar, scale bar, words."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from histotransfer_pl.report.attention_scale import ATTENTION_COLOURS, AttentionScale
from histotransfer_pl.report.figure import Picture, new_figure, picture, style
from histotransfer_pl.slides.scale_bar import length_in_words, round_length_um

PRINT_DPI = 300
_SIDE_IN = 3.4
"""Longer side of one view; two of them and the colour bar fill a page of 7.5 inches."""


@dataclass(frozen=True)
class SlideWords:
    """What stands above a slide.

    Attributes:
        slide_id: The slide.
        run: The run whose attention it is.
        outcome: Label and prediction; empty if neither is known.
    """

    slide_id: str
    run: str
    outcome: str = ""

    @property
    def title(self) -> str:
        """The slide, its run and, on a second line, what was predicted."""
        return f"{self.slide_id} · run {self.run}\n{self.outcome}".rstrip()


def attention_figure(
    thumbnail: NDArray[np.uint8],
    overlay: NDArray[np.uint8],
    mpp: float,
    words: SlideWords,
    name: str,
    scale: AttentionScale | None = None,
) -> Picture:
    """A slide beside its attention, as vector and as pixels of 300 per inch.

    Args:
        thumbnail: (h, w, 3) uint8 RGB.
        overlay: (h, w, 3) of the same size, as ``draw_overlay`` gives it.
        mpp: Micrometres per pixel of both.
        words: What stands above.
        name: Stem of the files.
        scale: The colours of the overlay.
    """
    height, width = thumbnail.shape[:2]
    unit = _SIDE_IN / max(height, width)
    with style():
        figure = new_figure(
            2 * width * unit + 1.0, height * unit + (0.7 if words.outcome else 0.55)
        )
        figure.set_layout_engine("compressed")
        views = figure.subplots(1, 2, squeeze=False)[0]
        for axis, pixels, title in zip(
            views, (thumbnail, overlay), ("Slide", "Attention"), strict=True
        ):
            axis.imshow(pixels, interpolation="antialiased")
            axis.set_axis_off()
            axis.set_title(title, fontsize=8.5, weight="normal")
        _draw_scale_bar(views[0], width, height, mpp)
        _draw_colour_bar(figure, views[1], scale or AttentionScale())
        figure.suptitle(words.title, fontsize=9.5, x=0.02, ha="left")
        alt = f"Slide {words.slide_id} and the attention of run {words.run} on it. {words.outcome}"
        return picture(figure, name, words.title.replace("\n", ": "), alt.strip(), PRINT_DPI)


def _draw_scale_bar(axis: Axes, width: int, height: int, mpp: float) -> None:
    length_um = round_length_um(width * mpp, 0.3)
    length, edge = length_um / mpp, 0.03 * max(width, height)
    field = (edge / 2, height - 4.2 * edge)
    axis.add_patch(
        Rectangle(field, length + edge, 3.7 * edge, facecolor="white", edgecolor="none", alpha=0.85)
    )
    axis.plot([edge, edge + length], [height - 1.2 * edge] * 2, color="#111827", linewidth=2.5,
              solid_capstyle="butt")  # fmt: skip
    axis.text(edge + length / 2, height - 1.9 * edge, length_in_words(length_um), fontsize=7,
              ha="center", va="bottom", color="#111827")  # fmt: skip


def _draw_colour_bar(figure: Figure, axis: Axes, scale: AttentionScale) -> None:
    shades = ScalarMappable(Normalize(0, 1), ATTENTION_COLOURS)
    bar = figure.colorbar(shades, ax=axis, fraction=0.05, pad=0.02)
    places, labels = zip(*scale.ticks(), strict=True)
    bar.set_ticks(list(places), labels=list(labels))
    bar.ax.tick_params(labelsize=7)
    bar.set_label("Attention, multiples of uniform\n(outlined: top attention)", fontsize=7)
