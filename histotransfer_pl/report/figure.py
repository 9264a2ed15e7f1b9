"""Figures: one style, two files each, and the form in which the page carries them."""

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from histotransfer_pl.analysis.bootstrap import Interval
from histotransfer_pl.records.files import write_bytes

SEQUENTIAL = "cividis"
"""Colour map of every matrix: even steps of lightness, alike without colour vision."""
COLOURS = ("#00429d", "#c2410c", "#0f766e", "#7e22ce", "#a16207", "#be123c", "#334155", "#4d7c0f")
"""Colours of curves; each also has a marker of its own."""
MARKERS = "osD^vPX*"
SWEET = "#b45309"

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "axes.edgecolor": "#6b7280",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    # Names of encoders and classes may hold a dollar sign, which is no formula.
    "text.parse_math": False,
    # The same study gives the same file.
    "svg.hashsalt": "histotransfer_pl",
}


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    Attributes:
        name: Stem of its files.
        caption: What it shows, with n; a sentence or two under it.
        alt: The same as text for screen readers.
        svg: Vector file.
        png: Pixel file.
        width_in: Width in inches.
    """

    name: str
    caption: str
    alt: str
    svg: bytes
    png: bytes
    width_in: float

    @property
    def source(self) -> str:
        """The figure as an address that needs no file beside the page."""
        return data_uri(self.svg, "image/svg+xml")

    def write(self, folder: Path) -> list[Path]:
        """Write both files."""
        contents = {folder / f"{self.name}.svg": self.svg, folder / f"{self.name}.png": self.png}
        for path, content in contents.items():
            write_bytes(path, content)
        return list(contents)


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as an address of their own."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


@contextmanager
def style() -> Iterator[None]:
    """The style of all figures; draw and save inside."""
    with mpl.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches; it belongs to no window."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def picture(figure: Figure, name: str, caption: str, alt: str, dpi: int = 160) -> Picture:
    """A drawn figure as files; the pixel file has ``dpi`` pixels per inch."""
    files = {}
    for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        with io.BytesIO() as file:
            figure.savefig(file, format=kind, dpi=dpi, metadata=metadata, facecolor="white")
            files[kind] = file.getvalue()
    return Picture(name, caption, alt, files["svg"], files["png"], figure.get_figwidth())


def write_counts(axis: Axes, text: str) -> None:
    """Write on the figure itself how much data is behind it."""
    axis.annotate(
        text, (1, 1.01), xycoords="axes fraction", ha="right", va="bottom", fontsize=8.5,
        color="#4b5563",
    )  # fmt: skip


def draw_intervals(
    axis: Axes,
    x: np.ndarray,
    intervals: Sequence[Interval],
    label: str,
    number: int,
    line: str = "-",
) -> None:
    """A curve of estimates at ``x`` (N,) with their intervals, in the colour of its number."""
    y = np.array([one.estimate for one in intervals])
    bars = np.array([[one.estimate - one.low, one.high - one.estimate] for one in intervals])
    axis.errorbar(
        x, y, yerr=np.maximum(bars.T, 0), color=COLOURS[number % len(COLOURS)], linestyle=line,
        marker=MARKERS[number % len(MARKERS)], markersize=5, linewidth=1.6, elinewidth=0.9,
        capsize=2, label=label,
    )  # fmt: skip
