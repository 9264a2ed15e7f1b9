"""The main job end to end: slides -> store -> fit -> test -> predict, painted and real."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from histotransfer_pl.cli.main import main
from histotransfer_pl.slides.synthetic import paint_cohort
from histotransfer_pl.store.feature_store import FeatureStore
from tests.tuning import attention_array

GRID = ["--data.grid.patch_px", "64", "--data.grid.mpp", "1.0", "--data.qc", "false"]
QUIET = ["--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six painted slides and their features, in fp32 and in bf16."""
    folder = tmp_path_factory.mktemp("painted")
    paint_cohort(folder, n_patients=6, slides_per_patient=1, seed=0, size_px=560)
    slides = ["--data.cohort", str(folder / "cohort.csv"), *GRID]
    model = ["--model.encoder", "resnet18", "--model.weights", "random", "--model.depths"]
    for name, precision in (("s", "32-true"), ("half", "bf16-mixed")):
        store = ["--data.store", str(folder / f"{name}.zarr"), "--trainer.precision", precision]
        assert main(["extract", *slides, *store, *model, "[stem, layer2]"]) == 0
    return folder


def fit(folder: Path, run: Path, *arguments: str, store: str = "s.zarr") -> int:
    data = ["--data.store", str(folder / store), "--data.cohort", str(folder / "cohort.csv")]
    folds = ["--data.n_folds", "3", "--data.depth", "layer2"]
    epochs = ["--trainer.max_epochs", "3"]
    return main(["fit", "--run_dir", str(run), *data, *folds, *epochs, *QUIET, *arguments])


def test_bf16_features_are_those_of_fp32_but_for_rounding(painted: Path) -> None:
    full, half = (FeatureStore.open(painted / f"{name}.zarr") for name in ("s", "half"))
    for slide_id in full.slide_ids():
        for depth in ("stem", "layer2"):
            array = f"features/resnet18-random0/{depth}"
            a = full.slide(slide_id).read(array).astype(np.float32)
            b = half.slide(slide_id).read(array).astype(np.float32)
            assert not np.array_equal(a, b)
            cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
            assert cosine.min() > 0.9995


def test_bf16_fit_learns_what_fp32_learns(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    states = []
    for name, precision in (("a", "32-true"), ("b", "bf16-mixed")):
        assert fit(painted, tmp_path / name, "--trainer.precision", precision) == 0
        path = tmp_path / name / "checkpoints" / "last.ckpt"
        states.append(torch.load(path, weights_only=True)["state_dict"])
    assert all(value.dtype == torch.float32 for value in states[1].values())
    different = [k for k, v in states[0].items() if not torch.equal(v, states[1][k])]
    assert different  # the second one was in another precision indeed
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, atol=0.01, rtol=0.05)


def test_the_dashboard_shows_top_attended_patches(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setenv("WANDB_MODE", "offline")
    assert fit(painted, tmp_path / "r") == 0
    pictures = sorted((tmp_path / "r" / "wandb").rglob("top_patches/**/*.png"))
    assert len(pictures) >= 8
    with Image.open(pictures[0]) as image:
        assert image.size == (64, 64)
        assert np.asarray(image).std() > 5  # tissue, and no blank square


@pytest.fixture(scope="module")
def regions(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """357 regions of real slides of 158 patients, an encoder with real weights."""
    folder = tmp_path_factory.mktemp("regions")
    source = data_root / "idc_breast"
    weights = data_root / "weights" / "tf_efficientnet_lite0.imagenet.safetensors"
    code = main(
        ["extract", "--data.slides", str(source / "slides"),
         "--data.cohort", str(source / "slides.csv"), "--data.store", str(folder / "s.zarr"),
         "--data.grid.patch_px", "50", "--data.grid.mpp", "4.0",
         "--data.grid.tissue.method", "non_white", "--data.qc", "false",
         "--model.encoder", "tf_efficientnet_lite0", "--model.weights", str(weights),
         "--model.depths", "[block3]", "--model.input_px", "64"]
    )  # fmt: skip
    assert code == 0
    return folder


def call(verb: str, regions: Path, run: Path, data_root: Path) -> int:
    cohort = str(data_root / "idc_breast" / "slides.csv")
    data = ["--data.store", str(regions / "s.zarr"), "--data.cohort", cohort]
    return main(
        [verb, "--run_dir", str(run), *data, *QUIET, "--data.batch_size", "8",
         "--data.standardize", "true", "--trainer.max_epochs", "10",
         "--checkpoint.monitor", "val/loss", "--checkpoint.mode", "min"]
    )  # fmt: skip


def test_real_regions_of_breast_cancer(
    regions: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run = tmp_path / "run"
    for verb in ("fit", "test", "predict"):
        assert call(verb, regions, run, data_root) == 0
    # Cancer against none on patients it has not seen: .75 and more is what colour and
    # texture of early layers tell; a leak of the labels would be near 1.
    auroc = json.loads((run / "test_metrics.json").read_text())["auroc"]
    assert 0.7 < auroc < 0.98
    table = pd.read_csv(run / "predictions.csv", dtype={"slide_id": str, "patient_id": str})
    assert len(table) == 357
    parts = table.groupby("patient_id")["part"].nunique()
    assert parts.max() == 1
    # Attention of every patch lies beside its features: tiles of the data set, in their places.
    store = FeatureStore.open(regions / "s.zarr")
    tiles = pd.read_csv(data_root / "idc_breast" / "tiles.csv", dtype={"slide_id": str})
    for slide_id, known in tiles.groupby("slide_id"):
        slide = store.slide(str(slide_id))
        attention = slide.read(attention_array(run))
        assert attention.shape == (slide.n_patches, 2)
        assert attention[:, 0].sum() == pytest.approx(1, abs=1e-4)
        found = {tuple(xy) for xy in slide.coords().tolist()}
        assert found <= set(zip(known["x"], known["y"], strict=True))
