"""Slides and stores to measure with."""

import functools
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histotransfer_pl.records.grid import GridSettings, TissueSettings
from histotransfer_pl.slides.painting import mix_stain, paint_section
from histotransfer_pl.slides.synthetic import SYNTHETIC_MPP, write_pyramid
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import encode_key, feature_path

FEATURES = feature_path("resnet18", "layer4")


def whole_grid(patch_px: int, mpp: float = SYNTHETIC_MPP) -> GridSettings:
    """A grid that keeps every patch."""
    return GridSettings(patch_px, mpp, min_tissue=0.0, tissue=TissueSettings(method="none"))


@functools.cache
def painted(side_px: int = 2688) -> NDArray[np.uint8]:
    """Pixels of a painted section (side, side, 3)."""
    rng = np.random.default_rng(0)
    return paint_section(rng, side_px, mix_stain(rng), tumour=True).rgb


def write_slides(folder: Path, count: int, side_px: int) -> list[Path]:
    """Painted slides of some side, cut out of one section."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = painted(max(2688, side_px))
    room = len(pixels) - side_px
    paths = []
    for number in range(count):
        left, top = (((number * step) + room // 2) % (room + 1) for step in (97, 61))
        path = folder / f"slide_{number:03d}.tiff"
        part = pixels[top : top + side_px, left : left + side_px]
        write_pyramid(path, np.ascontiguousarray(part), SYNTHETIC_MPP)
        paths.append(path)
    return paths


def write_bags(root: Path, table: Path, lengths: list[int], width: int) -> list[Path]:
    """A store of random features and its cohort; gives the raw files of the bags."""
    store = FeatureStore.open_or_create(root, {"patch_px": 224, "mpp": 0.5})
    generator = np.random.default_rng(0)
    names = [f"s{number:03d}" for number in range(len(lengths))]
    with store.writing():
        for name, rows in zip(names, lengths, strict=True):
            values = generator.standard_normal((rows, width), np.float32)
            places = np.stack([np.arange(rows), np.zeros(rows, np.int64)], 1) * 224  # (N, 2)
            slide = store.add_slide(name, places)
            slide.write(FEATURES, values, {"encoder": "resnet18"}, dtype=np.float16)
    labels = [number % 2 for number in range(len(names))]
    frame = pd.DataFrame({"slide_id": names, "patient_id": names, "label": labels})
    frame.to_csv(table, index=False)
    return [root / encode_key(name) / FEATURES / "c/0/0" for name in names]


def ragged_lengths(count: int, low: int, high: int) -> list[int]:
    """Lengths spread evenly over a logarithmic range, in mixed order."""
    lengths = np.geomspace(low, high, count).astype(int)
    order = np.random.default_rng(0).permutation(count)
    return [int(n) for n in lengths[order]]
