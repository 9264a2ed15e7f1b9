"""Slides in the report and for QuPath: pictures of the right places."""

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.report.attention_scale import TOP_CLASS, TOP_COLOUR, AttentionScale
from histotransfer_pl.report.geojson import attention_geojson
from histotransfer_pl.report.panels import choose_slides, has_attention, slide_panels
from histotransfer_pl.runs.run import Run, read_run
from histotransfer_pl.runs.study import load_runs
from histotransfer_pl.slides.outlines import qupath_origin
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import attention_path
from tests.runs.folders import write_run

SIDE = 32


@pytest.fixture
def run(tmp_path: Path) -> Run:
    table = pd.DataFrame(
        {
            "slide_id": ["a/1", "b", "c", "gone"],
            "patient_id": ["p1", "p2", "p3", "p4"],
            "label": ["0", "1", "1", "0"],
            "predicted": ["0", "1", "0", "0"],
            "p_0": [0.9, 0.2, 0.7, 0.6],
            "p_1": [0.1, 0.8, 0.3, 0.4],
        }
    )
    return read_run(load_runs([write_run(tmp_path / "run", table)]).runs[0])


@pytest.fixture
def store(tmp_path: Path, run: Run) -> FeatureStore:
    """Slides of 4 x 3 patches of different grey; the attention is on the one in row 1, column 2."""
    grid = GridSettings(patch_px=SIDE, mpp=1.0)
    rows, columns = np.divmod(np.arange(12), 4)
    coords = np.stack([columns * SIDE, rows * SIDE], axis=1).astype(np.int32)
    pixels = np.kron((20 * np.arange(12)).reshape(3, 4), np.ones((SIDE, SIDE)))
    image = np.repeat(pixels[..., None], 3, axis=2).astype(np.uint8)
    path = tmp_path / "slide.tiff"
    tifffile.imwrite(path, image, tile=(64, 64), photometric="rgb")
    store = FeatureStore.open_or_create(tmp_path / "s.zarr", grid.to_json())
    weights = np.full(12, 0.02, np.float32)
    weights[6] = 0.78
    with store.writing():
        for name in ("a/1", "b", "gone"):
            attributes = {
                "path": str(path if name != "gone" else tmp_path / "gone.tiff"),
                "slide_mpp": 1.0,
                "dimensions_level0": [128, 96],
                "patch_size_level0": float(SIDE),
            }
            slide = store.add_slide(name, coords, attributes=attributes)
            values = np.stack([weights, np.log(weights)], axis=1)
            slide.write(attention_path(run.run_dir), values, {})
    return store


def pixels_of(address: str) -> np.ndarray:
    content = base64.b64decode(address.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)))


def test_the_overlay_is_red_where_the_attention_is(run: Run, store: FeatureStore) -> None:
    panel = next(p for p in slide_panels(run, store, 4, 3) if p.slide_id == "b")
    assert not panel.problem
    overlay = pixels_of(panel.overlay).astype(int)
    assert overlay.shape == (96, 128, 3)
    red = overlay[..., 0] - overlay[..., 2] > 60
    expected = np.zeros((96, 128), bool)
    # The rim of a patch of top attention is black.
    expected[SIDE + 3 : 2 * SIDE - 3, 2 * SIDE + 3 : 3 * SIDE - 3] = True
    assert red[expected].all()
    assert not red[:, : 2 * SIDE].any()
    assert not red[: SIDE - 1].any()
    assert panel.extent == "0.24× to 9.4×"
    assert panel.figure is not None
    assert panel.figure.caption == "b · run run: label 1; the model says 1 (80.0 %): right"


def test_no_patches_are_shown_of_a_head_that_weighs_all_alike(
    run: Run, store: FeatureStore
) -> None:
    with store.writing():
        even = np.full(12, 1 / 12, np.float32)
        store.slide("b").write(attention_path(run.run_dir), even, {}, overwrite=True)
    panel = next(p for p in slide_panels(run, store, 4, 3) if p.slide_id == "b")
    assert panel.gallery == ()
    assert panel.extent == ""


def test_the_gallery_begins_with_the_patch_of_most_attention(run: Run, store: FeatureStore) -> None:
    panel = next(p for p in slide_panels(run, store, 4, 3) if p.slide_id == "b")
    assert len(panel.gallery) == 3
    assert panel.gallery[0].caption == f"9.4× at ({2 * SIDE}, {SIDE}) px"
    np.testing.assert_allclose(pixels_of(panel.gallery[0].source)[:150], 120, atol=2)
    np.testing.assert_allclose(pixels_of(panel.gallery[1].source)[:150], 0, atol=2)


def test_a_slide_without_file_or_attention_says_why(run: Run, store: FeatureStore) -> None:
    panels = {p.slide_id: p for p in slide_panels(run, store, 4, 3)}
    assert "does not exist" in panels["gone"].problem
    assert "no slide 'c'" in panels["c"].problem
    assert not panels["a/1"].problem


def test_right_and_wrong_slides_of_each_class_come_in_turn(run: Run) -> None:
    assert choose_slides(run, 4)["slide_id"].tolist() == ["a/1", "b", "c", "gone"]


def test_attention_is_found_under_the_name_of_the_run(run: Run, store: FeatureStore) -> None:
    assert has_attention(run, store)
    slide = store.slide("a/1")
    assert slide.arrays() == [attention_path(run.run_dir)]


def test_tiles_of_qupath_are_the_patches() -> None:
    coords = np.array([[0, 0], [32, 0], [0, 64]], np.int32)
    content = attention_geojson(coords, 32.5, np.array([0.3, 2.0, 0.7]), top_k=1)
    rings = [f["geometry"]["coordinates"][0] for f in content["features"]]
    assert rings[1] == [[32, 0], [64.5, 0], [64.5, 32.5], [32, 32.5], [32, 0]]
    ranks = [f["properties"]["measurements"]["Attention rank"] for f in content["features"]]
    assert ranks == [3, 1, 2]
    classes = [f["properties"].get("classification", {}).get("name") for f in content["features"]]
    assert classes == [None, TOP_CLASS, None]
    assert content["features"][1]["properties"]["classification"]["color"] == list(TOP_COLOUR)
    colours = [f["properties"]["color"] for f in content["features"]]
    assert colours == AttentionScale().colours(np.array([0.3, 2.0, 0.7])).tolist()


def test_the_empty_rim_that_qupath_cuts_off_is_cut_off_here() -> None:
    origin = qupath_origin({"openslide.bounds-x": "100", "openslide.bounds-y": "40"})
    content = attention_geojson(np.array([[132, 40]]), 32, np.ones(1), 0, origin)
    assert content["features"][0]["geometry"]["coordinates"][0][0] == [32, 0]
    assert qupath_origin({}) == (0, 0)
