"""A cohort of tiny slides with a finished stage-1 run, for the tests of fine-tuning."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from histotransfer_pl.cli.main import main
from histotransfer_pl.records.files import sha256_of
from histotransfer_pl.slides.synthetic import write_pyramid
from histotransfer_pl.store.layout import attention_path

PATCH_PX = 32
N_PATIENTS = 12
ENCODER = ("--model.encoder", "timm:test_resnet", "--model.weights", "random")
TOPK = (
    *("--model", "TopKFineTuner", "--model.stage1", "stage1", *ENCODER),
    *("--data", "TopKPatchDataModule", "--data.selection", "top3"),
)
QUIET = ("--trainer.enable_progress_bar", "false")

Command = Callable[..., int]


def paint(slide: int, positive: bool, columns: int = 4, rows: int = 3) -> NDArray[np.uint8]:
    """A slide of columns x rows patches of noise; a positive one has one dark striped patch."""
    rng = np.random.default_rng(slide)
    side = PATCH_PX
    pixels = rng.integers(120, 200, (rows * side, columns * side, 3), np.uint8)
    if positive:
        x, y = (int(rng.integers(n)) * side for n in (columns, rows))
        pixels[y : y + side : 2, x : x + side] = (60, 20, 90)
    return pixels


def tuning(verb: str, *arguments: str, epochs: int = 2) -> int:
    """Run a verb of training in the cohort's folder; later arguments override."""
    data = ["--data.store", "s.zarr", "--data.cohort", "c.csv", "--data.n_folds", "3"]
    fixed = ["--trainer.max_epochs", str(epochs), *QUIET]
    fixed += ["--overwrite", "true"] if verb == "fit" else []
    if "TopKFineTuner" in arguments:  # a class resets the settings that stand before it
        return main([verb, *arguments[: len(TOPK)], *data, *fixed, *arguments[len(TOPK) :]])
    return main([verb, *data, *fixed, *arguments])


def attention_array(run: Path, checkpoint: str = "best") -> str:
    """Where the store keeps the attention of a run: under the hash of its checkpoint."""
    return attention_path(sha256_of(run / "checkpoints" / f"{checkpoint}.ckpt"))


@pytest.fixture(scope="session")
def finished_stage1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides, store, a stage-1 run with attention, and the selection ``top3``; made once."""
    folder = tmp_path_factory.mktemp("tuning")
    (folder / "slides").mkdir()
    table = []
    for i in range(N_PATIENTS):
        positive = i % 2 == 1
        write_pyramid(folder / "slides" / f"s{i:02}.tiff", paint(i, positive), 0.5)
        table.append((f"s{i:02}", f"slides/s{i:02}.tiff", f"p{i:02}", int(positive)))
    columns = ["slide_id", "path", "patient_id", "label"]
    pd.DataFrame(table, columns=columns).to_csv(folder / "c.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "disabled")
        grid = ["--data.grid.patch_px", str(PATCH_PX), "--data.grid.tissue.method", "none"]
        common = ["--data.store", "s.zarr", "--data.cohort", "c.csv", "--data.qc", "false"]
        assert main(["extract", *common, *grid, *ENCODER]) == 0
        adam = "{class_path: torch.optim.Adam, init_args: {lr: 0.001}}"
        paper = ["--model.optimizer", adam, "--data.batch_size", "1", "--data.standardize", "false"]
        assert tuning("fit", "--run_dir", "stage1", "--model.beta", "0.1", *paper) == 0
        assert tuning("predict", "--run_dir", "stage1", "--model.beta", "0.1") == 0
        assert main(["select", "--run_dir", "stage1", "--top_k", "3", "--name", "top3"]) == 0
    return folder


@pytest.fixture
def tuning_cohort(finished_stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished stage 1, as the current folder."""
    folder = tmp_path / "cohort"
    shutil.copytree(finished_stage1, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return folder
