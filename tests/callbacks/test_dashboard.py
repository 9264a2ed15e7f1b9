"""What loggers are given: figures, tables and the patches a network looks at."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from histotransfer_pl.callbacks.dashboard import in_multiples
from histotransfer_pl.cli.main import main
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path
from histotransfer_pl.tasks.open_bags import most_attended
from histotransfer_pl.tasks.slide_model import SlidePrediction
from tests.tuning import PATCH_PX, TOPK, attention_array, tuning


def test_most_attended_are_the_first_of_a_stable_sort() -> None:
    attention = torch.tensor([0.1, 0.5, 0.4, 0.3, 0.3, 0.1, 0.3])
    prediction = SlidePrediction(
        attention=attention, lengths=torch.tensor([3, 4]), indices=torch.tensor([7, 2])
    )
    found = most_attended(prediction, 2)
    assert {index: [row for row, _ in rows] for index, rows in found.items()} == {
        7: [1, 2],
        2: [0, 1],
    }
    assert found[7][0][1] == pytest.approx(0.5)
    assert len(most_attended(prediction, 9)[7]) == 3


def media(run: Path) -> Path:
    (folder,) = (run / "wandb").glob("offline-run-*/files/media")
    return folder


def test_tuning_shows_after_each_epoch_the_patches_it_attends_to(
    tuning_cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tuning("fit", *TOPK, "--run_dir", "a", epochs=2) == 0
    shown = media(Path("a")) / "images" / "val" / "top_patches"
    slides = sorted({path.name.split("_")[0] for path in shown.iterdir()})
    assert len(list(shown.iterdir())) == 4 * 2 * 8  # slides, epochs, patches
    assert len(slides) == 4
    # The patches of the last epoch are those of the attention that the last checkpoint gives.
    last = ("--ckpt_path", "a/checkpoints/last.ckpt")
    assert tuning("predict", *TOPK, "--run_dir", "a", *last) == 0
    for slide_id in slides:
        slide = FeatureStore.open("s.zarr").slide(slide_id)
        weight = slide.read(attention_array(Path("a"), "last"))[:, 0]
        best = slide.coords()[int(np.argmax(weight))]
        with open_slide(slide.attributes["path"]) as reader:
            expected = reader.read_patch(int(best[0]), int(best[1]), PATCH_PX, 0.5)
        assert any(np.array_equal(expected, pixels(path)) for path in shown.glob(f"{slide_id}*"))


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_fit_on_features_shows_figures_a_table_and_patches(
    tuning_cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tuning("fit", "--run_dir", "a", epochs=1) == 0
    folder = media(Path("a"))
    names = {path.relative_to(folder).as_posix().rsplit("_", 2)[0] for path in folder.rglob("*.*")}
    assert {"images/val/roc", "images/val/confusion", "table/val/predictions"} <= names
    assert len(list((folder / "images/val/top_patches").iterdir())) == 4 * 8
    (table,) = (folder / "table/val").glob("predictions_*.json")
    assert len(json.loads(table.read_text())["data"]) == 4


LOGGERS = """
trainer:
  logger:
    - {class_path: TensorBoardLogger, init_args: {save_dir: logs, name: tb, version: fit}}
    - {class_path: MLFlowLogger, init_args: {tracking_uri: "file:logs/mlruns"}}
"""


def test_tensorboard_and_mlflow_get_numbers_and_figures(
    tuning_cohort: Path,
) -> None:
    Path("loggers.yaml").write_text(LOGGERS)
    assert tuning("fit", "--config", "loggers.yaml", "--run_dir", "a", epochs=1) == 0
    events = EventAccumulator("logs/tb/fit", size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert "val/auroc" in tags["scalars"]
    patches = [tag for tag in tags["images"] if tag.startswith("val/top_patches/")]
    assert len(patches) == 4
    assert {"val/roc", "val/confusion"} <= set(tags["images"])
    assert "val/predictions/text_summary" in tags["tensors"]
    (run,) = Path("logs/mlruns").glob("*/*/artifacts")
    made = {path.relative_to(run).as_posix().rpartition("-")[0] for path in run.rglob("*.*")}
    assert {"val/roc", "val/confusion", "val/predictions", *patches} == made
    assert (run.parent / "metrics/val/auroc").is_file()
    assert Path("a/metrics/fit/metrics.csv").is_file()


def test_a_logger_that_fails_costs_one_line(
    tuning_cohort: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError("disk is full")

    monkeypatch.setattr(SummaryWriter, "add_figure", fail)
    Path("loggers.yaml").write_text(LOGGERS.rpartition("    - ")[0])
    assert tuning("fit", "--config", "loggers.yaml", "--run_dir", "a", epochs=1) == 0
    said = capsys.readouterr().err
    assert said.count("TensorBoardLogger failed and is left out from here on: disk is full") == 1
    assert Path("a/metrics/fit/metrics.csv").is_file()


def test_captions_are_in_multiples_of_uniform_attention() -> None:
    assert in_multiples(0.5, 4) == "2.0 x uniform attention"


def test_a_fit_ends_well_where_the_store_does_not_record_the_files(
    tuning_cohort: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    made = FeatureStore.open("s.zarr")
    store = FeatureStore.open_or_create("hand.zarr", {"patch_px": PATCH_PX, "mpp": 0.5})
    with store.writing():
        for slide in made:
            copy = store.add_slide(slide.slide_id, slide.coords())
            for encoder, depth in slide.features():
                values = slide.read(feature_path(encoder, depth))
                copy.write(feature_path(encoder, depth), values, {"encoder": encoder})
    assert tuning("fit", "--data.store", "hand.zarr", "--run_dir", "a", epochs=1) == 0
    assert len(list((media(Path("a")) / "images/val/top_patches").iterdir())) == 4
    assert tuning("predict", "--data.store", "hand.zarr", "--run_dir", "a") == 0
    capsys.readouterr()
    assert main(["export", "--store", "hand.zarr", "--run_dir", "a"]) == 3
    line = "hand.zarr does not record the path of slide 's00'"
    assert line in capsys.readouterr().err
