"""Slide means in place of patches: what extraction stores, what heads make of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.cli.main import main
from histotransfer_pl.data.slide_means import labelled_slides
from histotransfer_pl.errors import StoreError
from histotransfer_pl.slides.synthetic import paint_cohort
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.mean_writer import MeanWriter

EXTRACT = (
    "extract --data.cohort cohort.csv --data.qc false --data.grid.patch_px 56 "
    "--data.grid.mpp 1.0 --model.encoder resnet18 --model.weights random "
    "--model.depths [stem,layer1] --data.store "
)
FIT = (
    "fit --run_dir {run} --data.store {store} --data.cohort cohort.csv --data.encoder "
    "resnet18-random0 --data.depth {depth} --model.head {head} --trainer.max_epochs 2 "
    "--data.n_folds 3 --data.standardize true --model.beta 0"
)
LINEAR = '{"class_path":"MeanPoolHead","init_args":{"hidden":[],"patch_head":false}}'


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of every patch, and one of means of both depths and layer1 in full."""
    folder = tmp_path_factory.mktemp("means")
    paint_cohort(folder, n_patients=6, slides_per_patient=1, seed=0, size_px=560)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(f"{EXTRACT}whole.zarr".split()) == 0
        assert main(f"{EXTRACT}means.zarr --model.means all --model.full [layer1]".split()) == 0
    return folder


def fit(run: str, store: str, depth: str, *more: str, head: str = LINEAR) -> int:
    words = FIT.format(run=run, store=store, depth=depth, head="HEAD").split()
    return main([head if word == "HEAD" else word for word in words] + list(more))


def test_means_are_those_of_the_patches(stores: Path) -> None:
    whole = FeatureStore.open(stores / "whole.zarr")
    means = FeatureStore.open(stores / "means.zarr")
    for slide_id in whole.slide_ids():
        assert sorted(means.slide(slide_id).arrays()) == [
            "features/resnet18-random0/layer1",
            "means/resnet18-random0/layer1", "means/resnet18-random0/stem",
        ]  # fmt: skip
        for depth in ("stem", "layer1"):
            patches = whole.slide(slide_id).read(f"features/resnet18-random0/{depth}")
            mean = means.slide(slide_id).read(f"means/resnet18-random0/{depth}")
            assert mean.shape == (1, 64)
            assert mean.dtype == np.float32
            expected = patches.mean(0, dtype=np.float64)[None]
            np.testing.assert_allclose(mean, expected, rtol=2e-3, atol=1e-4)
    assert main(["verify", "--store", str(stores / "means.zarr")]) == 0
    one, other = (
        labelled_slides(
            stores / name, stores / "cohort.csv", "label", "resnet18-random0", ["layer1", "stem"]
        ).means("resnet18-random0", ["stem"])["stem"]
        for name in ("whole.zarr", "means.zarr")
    )
    np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-4)


def test_a_mean_head_predicts_the_same_from_means(
    stores: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(stores)
    assert fit("own", "means.zarr", "stem", "--data.means", "true") == 0
    assert main(["test", "--run_dir", "own"]) == 0
    found = pd.read_csv("own/test_predictions.csv")
    assert main(["predict", "--run_dir", "own"]) == 0
    # The same weights on every patch.
    everything = ["--data.store", "whole.zarr", "--data.means", "false"]
    assert main(["predict", "--run_dir", "own", *everything]) == 0
    table = pd.read_csv("own/predictions.csv").set_index("slide_id").loc[found["slide_id"]]
    np.testing.assert_allclose(table["p_tumour"], found["p_tumour"], atol=2e-3)
    capfd.readouterr()
    assert fit("attention", "means.zarr", "stem", "--data.means", "true", head="AttentionHead") == 1
    assert "AttentionHead does not average the features as they are" in capfd.readouterr().err
    assert fit("no", "means.zarr", "stem") == 1
    assert "stem" in capfd.readouterr().err


def test_a_study_fits_on_means_only_what_averages(
    stores: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(stores)
    arguments = [
        "--name", "kept", "--cohort", "cohort.csv", "--store.means", "all",
        "--store.full", "[layer1]", "--encoders",
        '[{"name": "resnet18", "weights": "random", "depths": ["stem", "layer1"]}]',
        "--heads", f'{{"mean": {LINEAR}, "attention": {{"class_path": "AttentionHead"}}}}',
        "--folds.run", "[0]", "--dry_run",
    ]  # fmt: skip
    assert main(["study", *arguments]) == 0
    plan = capfd.readouterr().out
    assert '--model.means \'["stem", "layer1"]\' --model.full \'["layer1"]\'' in plan
    fits = [line for line in plan.splitlines() if " fit --run_dir" in line]
    assert [("mean-f0" in line, "--data.means true" in line) for line in fits] == [
        (True, True), (True, True), (False, False),
    ]  # fmt: skip
    assert plan.count("histotransfer_pl predict") == 1
    assert main(["study", *arguments, "--store.full", "[layer2]"]) == 0
    assert main(["study", *arguments, "--store.means", "null"]) == 1
    assert "store keeps nothing of the depth stem" in capfd.readouterr().err


def test_a_mean_takes_every_row_once(stores: Path) -> None:
    store = FeatureStore.open(stores / "whole.zarr")
    slide = store.slide(store.slide_ids()[0])
    n = slide.n_patches
    with store.writing():
        writer = MeanWriter(slide.writer("means/a/b", (1, 2), np.float32, {}), n, 2)
        writer.assign(np.arange(n - 1), np.ones((n - 1, 2), np.float16))
        with pytest.raises(StoreError, match=f"row {n - 1} is missing in a mean"):
            writer.commit()
        with pytest.raises(StoreError, match="row 0 came twice into a mean"):
            writer.assign(np.array([0]), np.ones((1, 2), np.float16))
        writer.abort()
        with pytest.raises(StoreError, match="for .* patches"):
            slide.writer("means/a/b", (n, 2), np.float32, {})
    assert not slide.has("means/a/b")
