"""A small store that the tests of this layer share."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import attention_path, feature_path, selection_path

TISSUE = {"method": "otsu", "saturation_threshold": None}
GRID = {"patch_px": 224, "mpp": 0.5, "tissue": TISSUE}
FEATURES = feature_path("hf-hub:lab/net", "layer4")
ATTENTION = attention_path("fold 0")
SELECTION = selection_path("top-8")
SLIDES = {"a": 17, "case 2/slide.svs": 40, "empty": 0}


def features_of(slide_id: str) -> NDArray[np.float16]:
    """What the features of a slide are, told by its id."""
    generator = np.random.default_rng(len(slide_id))
    return generator.standard_normal((SLIDES[slide_id], 6)).astype(np.float16)


def coords_of(slide_id: str) -> NDArray[np.int32]:
    """Where the patches of a slide are."""
    row = np.arange(SLIDES[slide_id], dtype=np.int32)
    return np.stack([row % 5 * 224, row // 5 * 224], axis=1)


@pytest.fixture
def empty_store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.open_or_create(tmp_path / "S.zarr", GRID)


@pytest.fixture(scope="session")
def finished_store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Written once; tests get a copy."""
    store = FeatureStore.open_or_create(tmp_path_factory.mktemp("store") / "S.zarr", GRID)
    with store.writing():
        for slide_id, n_patches in SLIDES.items():
            slide = store.add_slide(slide_id, coords_of(slide_id), n_patches, {"mpp": 0.25})
            slide.write(FEATURES, features_of(slide_id), {"encoder": "net", "weights_sha256": "ab"})
            slide.write(ATTENTION, np.arange(n_patches, dtype=np.float32), {})
            slide.write(SELECTION, np.arange(min(n_patches, 8), dtype=np.int32), {})
    return store


@pytest.fixture
def store(finished_store: FeatureStore, tmp_path: Path) -> FeatureStore:
    """Three slides with features, attention and a selection each."""
    shutil.copytree(finished_store.path, tmp_path / "S.zarr")
    return FeatureStore.open(tmp_path / "S.zarr")
