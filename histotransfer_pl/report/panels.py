"""Panels of single slides: thumbnail, attention in its place, the patches it rests on."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from histotransfer_pl.data.selection import highest
from histotransfer_pl.data.tile import slide_file
from histotransfer_pl.errors import SlideError, StoreError
from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.outcomes.survival import Hazards
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.report.attention_figure import SlideWords, attention_figure
from histotransfer_pl.report.attention_scale import relative_attention
from histotransfer_pl.report.figure import Picture, data_uri
from histotransfer_pl.report.overlay import draw_overlay, patch_boxes, thumbnail_mpp
from histotransfer_pl.runs.run import Run
from histotransfer_pl.slides.reader import OpenSlideReader, open_slide
from histotransfer_pl.slides.scale_bar import draw_scale_bar
from histotransfer_pl.store.attention import has_attention_of, read_attention
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import encode_key
from histotransfer_pl.store.slide import StoredSlide

LONG_SIDE_PX = 1100
_PATCH_PX = 224
_ALIKE = 1e-4
_HEIGHT = {
    "survival": "risk",
    "regression": "predicted value",
    "multilabel": "mean probability of its labels",
}
"""By what slides are ordered that have no class."""


@dataclass(frozen=True, eq=False)
class GalleryPatch:
    """One of the patches with the most attention."""

    source: str
    alt: str
    caption: str


@dataclass(frozen=True, eq=False)
class SlidePanel:
    """One slide as the page shows it.

    Attributes:
        slide_id: The slide.
        verdict: What it is and what the model said.
        run: The run whose attention is shown.
        problem: Why there are no pictures; empty if there are.
        size: Extent of the slide, in words.
        thumbnail: The slide, as an address.
        overlay: Attention on it, as an address.
        extent: Lowest and highest attention of its patches, in words.
        gallery: The patches with the most attention, highest first; none if all weigh the same.
        figure: Slide and attention for print, in files of its own.
    """

    slide_id: str
    verdict: str
    run: str
    problem: str = ""
    size: str = ""
    thumbnail: str = ""
    overlay: str = ""
    extent: str = ""
    gallery: tuple[GalleryPatch, ...] = ()
    figure: Picture | None = None

    def write(self, folder: Path) -> list[Path]:
        """Write the figure as files, if there is one."""
        return [] if self.figure is None else self.figure.write(folder)


def choose_slides(run: Run, count: int) -> pd.DataFrame:
    """Test slides worth looking at, those that `how_chosen` names."""
    table = run.table
    outcome = run.tested.outcome
    if outcome.task in _HEIGHT:
        height = outcome.to_columns(run.tested.scores).mean(1)  # (S,)
        if isinstance(outcome, Hazards):  # who survives longer has the lower risk
            height = -height
        order = table.assign(height=height).sort_values("height", ascending=False)
        half = -(-count // 2)
        highest, lowest = order.head(half), order.iloc[half:].tail(count - half).iloc[::-1]
        return pd.concat([highest, lowest]).drop(columns="height")
    sure = table[[f"p_{c}" for c in run.classes]].max(axis=1)
    right = table["label"] == table["predicted"]
    ranked = table.assign(sure=sure, right=right).sort_values(
        ["sure", "slide_id"], ascending=[False, True]
    )
    turn = ranked.groupby(["label", "right"]).cumcount()
    ordered = ranked.assign(turn=turn, wrong=~ranked["right"])
    return ordered.sort_values(["turn", "wrong", "label"], kind="stable").head(count)


def how_chosen(outcome: Outcome) -> str:
    """What `choose_slides` does, in words."""
    if outcome.task in _HEIGHT:
        height = _HEIGHT[outcome.task]
        return f"first those of the highest {height}, then those of the lowest"
    return "of each class the one most surely right, then the one most surely wrong, and so on"


def slide_panels(run: Run, store: FeatureStore, count: int, top_k: int) -> list[SlidePanel]:
    """Panels of some test slides of a run; a slide that cannot be shown says why."""
    return [_panel(run, store, row, top_k) for _, row in choose_slides(run, count).iterrows()]


def has_attention(run: Run, store: FeatureStore) -> bool:
    """Whether ``predict`` wrote this run's attention for its test slides."""
    ids = [str(s) for s in run.table["slide_id"].head(3) if str(s) in store]
    return any(has_attention_of(store.slide(name), *run.attention_names) for name in ids)


def _panel(run: Run, store: FeatureStore, row: pd.Series, top_k: int) -> SlidePanel:
    slide_id = str(row["slide_id"])
    outcome = run.tested.outcome
    said = outcome.in_words(row[outcome.columns].to_numpy(float))
    verdict = f"{outcome.truth_in_words(row)}; the model says {said}"
    if "right" in row:
        verdict += ": right" if row["right"] else ": wrong"
    try:
        slide = store.slide(slide_id)
        mpp = float(slide.fact("slide_mpp"))
        weights = read_attention(slide, *run.attention_names)
        reader = open_slide(slide_file(slide), mpp)
        with reader:
            return _draw(slide, reader, weights, (slide_id, verdict, run.name), store, top_k)
    except (SlideError, StoreError) as error:
        return SlidePanel(slide_id, verdict, run.name, problem=str(error))


def _draw(
    slide: StoredSlide,
    reader: OpenSlideReader,
    weights: NDArray[np.float64],
    words: tuple[str, str, str],
    store: FeatureStore,
    top_k: int,
) -> SlidePanel:
    coords, side = slide.coords(), float(slide.fact("patch_size_level0"))
    mpp = thumbnail_mpp(reader.dimensions_level0, reader.mpp, LONG_SIDE_PX)
    thumbnail = reader.thumbnail(mpp)  # (h, w, 3)
    relative = relative_attention(weights)  # (N,)
    boxes = patch_boxes(coords, side, reader.mpp, mpp)  # (N, 4)
    overlay = draw_overlay(thumbnail, boxes, relative, top_k)  # (h, w, 3)
    width, height = (n * reader.mpp / 1000 for n in reader.dimensions_level0)
    low, high = float(relative.min()), float(relative.max())
    rows = highest(weights, top_k) if high - low > _ALIKE else np.empty(0, np.int64)  # (k,)
    slide_id, verdict, run = words
    letters_px = max(11, round(min(thumbnail.shape[:2]) / 18))  # the page shows it small
    title = SlideWords(slide_id, Path(run).name, verdict)
    return SlidePanel(
        *words,
        size=f"{width:.1f} × {height:.1f} mm, {len(coords)} patches",
        thumbnail=_encoded(draw_scale_bar(Image.fromarray(thumbnail), mpp, letters_px)),
        overlay=_encoded(draw_scale_bar(Image.fromarray(overlay), mpp, letters_px)),
        extent=f"{low:.2g}× to {high:.2g}×" if high - low > _ALIKE else "",
        gallery=tuple(_gallery(reader, store, coords[rows], relative[rows])),
        figure=attention_figure(thumbnail, overlay, mpp, title, encode_key(slide_id)),
    )


def _gallery(
    reader: OpenSlideReader,
    store: FeatureStore,
    coords: NDArray[np.int32],
    relative: NDArray[np.float64],
) -> Sequence[GalleryPatch]:
    if store.grid is None:
        return []
    grid = GridSettings.from_json(store.grid)
    patches = []
    for place, ((x, y), value) in enumerate(zip(coords.tolist(), relative, strict=True)):
        pixels = reader.read_patch(x, y, grid.patch_px, grid.mpp)  # (P, P, 3)
        way = Image.Resampling.BOX if len(pixels) > _PATCH_PX else Image.Resampling.BICUBIC
        image = Image.fromarray(pixels).resize((_PATCH_PX, _PATCH_PX), way)
        image = draw_scale_bar(image, grid.mpp * grid.patch_px / _PATCH_PX, text_px=22)
        alt = f"Patch number {place + 1} by attention, at level-0 pixel {x}, {y}"
        source = _encoded(image)
        patches.append(GalleryPatch(source, alt, f"{value:.2g}× at ({x}, {y}) px"))
    return patches


def _encoded(picture: Image.Image) -> str:
    with io.BytesIO() as file:
        # Colours at full resolution, or the borders of patches would run.
        picture.save(file, "JPEG", quality=88, subsampling=0)
        return data_uri(file.getvalue(), "image/jpeg")
