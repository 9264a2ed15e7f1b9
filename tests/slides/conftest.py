"""Slides that several tests of this layer read."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from openslide import OpenSlide

from histotransfer_pl.slides.synthetic import paint_cohort


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small painted cohort: one patient, a normal and a tumour slide."""
    folder = tmp_path_factory.mktemp("painted")
    paint_cohort(folder, n_patients=1, slides_per_patient=2, seed=0, size_px=1104)
    return folder


@pytest.fixture(scope="session")
def normal_slide(painted: Path) -> Path:
    return painted / "slides" / "patient_00_slide_0.tiff"


@pytest.fixture(scope="session")
def aperio(data_root: Path) -> Path:
    """A real Aperio slide of one level, 2220 x 2967 px at 0.499 um."""
    return data_root / "wsi_real" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="session")
def tcga(data_root: Path) -> Path:
    """A real Aperio slide of two levels (downsample 2.0005) that names no resolution."""
    return data_root / "wsi_real" / "tcga-cr-7395-01a-01-ts1.svs"


def level0_on_white(path: Path, x: int, y: int, width: int, height: int) -> NDArray[np.float64]:
    """Level-0 pixels by OpenSlide alone, composited on white by the formula."""
    with OpenSlide(path) as slide:
        rgba = np.asarray(slide.read_region((x, y), 0, (width, height)), np.float64)
    alpha = rgba[:, :, 3:] / 255
    return rgba[:, :, :3] * alpha + 255 * (1 - alpha)


def area_mean(pixels: NDArray[np.float64], side: float, out_px: int) -> NDArray[np.float64]:
    """Exact mean over squares that tile (side, side) into (out_px, out_px), edges fractional."""
    edges = np.arange(out_px + 1) * side / out_px
    cells = np.arange(pixels.shape[0])
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    weights = np.clip(overlap, 0, None) * out_px / side  # (out_px, n)
    rows = np.tensordot(weights, pixels, axes=(1, 0))
    return np.moveaxis(np.tensordot(weights, rows, axes=(1, 1)), 0, 1)
