"""fit, test, predict, then report and export through the command line."""

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histotransfer_pl.cli.main import main
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.slides.files import fingerprint
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import attention_path, encode_key, feature_path
from tests.cli.conftest import Run

QUICK = ["--n_slides", "0", "--resamples", "100"]


def test_report_of_plain_runs(run: Run, cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, head in (("a", "AttentionHead"), ("b", "MeanPoolHead")):
        for verb in ("fit", "test"):
            folds = ["--data.n_folds", "3"]
            assert run(verb, "--run_dir", name, "--model.head", head, *folds) == 0
    capsys.readouterr()
    assert main(["report", "--runs", "a", "b", "nowhere", "--out", "page", *QUICK]) == 0
    said = capsys.readouterr().out
    assert "did best" in said or "did equally well" in said
    assert "1 run has no predictions" in said
    assert said.rstrip().endswith("wrote page/index.html")
    arms = pd.read_csv(cohort / "page" / "tables" / "arms.csv")
    assert set(arms["head"]) == {"AttentionHead", "MeanPoolHead"}
    # The encoder was left to the store; the checkpoint knows it.
    assert set(arms["encoder"]) == {"toy"}
    for name in ("a", "b"):
        metrics = json.loads((cohort / name / "test_metrics.json").read_text())
        shown = arms.loc[arms["head"] == ("AttentionHead" if name == "a" else "MeanPoolHead")]
        assert shown["auroc"].item() == pytest.approx(metrics["auroc"], abs=1e-6)
    splits = pd.read_csv(cohort / "page" / "tables" / "splits.csv").set_index("part")
    table = pd.read_csv(cohort / "a" / "test_predictions.csv", dtype=str)
    assert splits.loc["test", "slides"] == len(table)
    assert splits["patients"].sum() == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report"], "nothing to report"),
        (["report", "--study_dir", "."], "no plan.json in ."),
        (["report", "--study_dir", ".", "--runs", "a"], "exclude each other"),
        (["export", "--store", "s.zarr"], "holds attention of none"),
        (["export", "--store", "s.zarr", "--run_dir", "x"], "run predict in the run folder"),
        (["export", "--store", "s.zarr", "--what", "features"], "needs --encoder and --depth"),
    ],
)
def test_errors_are_one_line(
    cohort: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(cohort)
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_features_become_hdf5(
    cohort: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(cohort)
    options = ["--store", "s.zarr", "--what", "features", "--encoder", "toy", "--depth", "last"]
    assert main(["export", *options, "--slides", "p00/0", "p01/1", "nobody"]) == 3
    assert "features of 2 slides into export; 1 failed" in capsys.readouterr().out
    slide = FeatureStore.open("s.zarr").slide("p00/0")
    with h5py.File(cohort / "export" / f"{encode_key('p00/0')}.h5") as file:
        np.testing.assert_array_equal(file["features"][:], slide.read(feature_path("toy", "last")))
        assert "checksum" in file["features"].attrs
    assert len(list((cohort / "export").iterdir())) == 2


def test_attention_becomes_geojson_and_a_picture(tmp_path: Path, data_root: Path) -> None:
    path = data_root / "wsi_real" / "CMU-1-Small-Region.svs"
    store = FeatureStore.open_or_create(tmp_path / "s.zarr", GridSettings().to_json())
    attributes: dict[str, object] = {
        "path": str(path),
        "slide_mpp": 0.499,
        "patch_size_level0": 224.0,
    }
    attributes["fingerprint"] = fingerprint(path)
    coords = np.array([[0, 0], [1000, 500], [1500, 2000]], np.int32)
    with store.writing():
        slide = store.add_slide("cmu", coords, attributes=attributes)
        slide.write(attention_path("r/1"), np.array([0.1, 0.8, 0.1], np.float32), {})
    out = tmp_path / "out"
    assert main(["export", "--store", str(store.path), "--out", str(out), "--top_k", "1"]) == 0
    content = json.loads((out / "cmu.geojson").read_text())
    corners = [f["geometry"]["coordinates"][0][0] for f in content["features"]]
    assert corners == coords.tolist()
    picture = np.asarray(Image.open(out / "cmu.png")).astype(int)
    assert picture.shape[1] > 1500
    red = np.argwhere(picture[..., 0] - picture[..., 2] > 60)  # (pixels, 2) row, column
    assert len(red) > 100
    assert (out / "cmu.svg").read_text().count("<image") >= 2
