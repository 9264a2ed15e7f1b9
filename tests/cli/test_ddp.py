"""Two processes on the CPU: every slide once, the metrics of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from histotransfer_pl.slides.synthetic import paint_cohort
from histotransfer_pl.store.feature_store import FeatureStore
from tests.cli.conftest import Run

_DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]


def in_two_processes(folder: Path, *arguments: str) -> None:
    """The launcher starts its second process by the command line, so this is a command too."""
    done = subprocess.run(
        [sys.executable, "-m", "histotransfer_pl", *arguments, *_DDP],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_fit_and_test_equal_one_process(run: Run, cohort: Path) -> None:
    data = ["--data.store", "s.zarr", "--data.cohort", "c.csv", "--trainer.max_epochs", "2"]
    run("fit", "--data.batch_size", "6")
    run("test")
    in_two_processes(cohort, "fit", "--run_dir", "two", *data, "--data.batch_size", "3")
    in_two_processes(cohort, "test", "--run_dir", "two", *data)
    states = [
        torch.load(cohort / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("r", "two")
    ]
    for name, value in states[0].items():
        # The softmax cancels the bias of the attention logit, so its gradient is rounding noise,
        # and Adam makes steps of it.
        noise = name.endswith("bias") and value.numel() == 1
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-2 if noise else 1e-5)
    one, two = (json.loads((cohort / n / "test_metrics.json").read_text()) for n in ("r", "two"))
    numbers = {name for name, value in one.items() if isinstance(value, float)}
    assert {"auroc", "loss"} <= numbers
    for name in numbers:
        assert one[name] == pytest.approx(two[name], abs=1e-6), name
    tables = [pd.read_csv(cohort / name / "test_predictions.csv") for name in ("r", "two")]
    assert tables[0]["slide_id"].tolist() == tables[1]["slide_id"].tolist()
    np.testing.assert_allclose(tables[0]["p_1"], tables[1]["p_1"], atol=1e-5)
    logs = [pd.read_csv(cohort / n / "metrics" / "fit" / "metrics.csv") for n in ("r", "two")]
    for column in ("train/loss", "val/loss", "val/auroc"):
        np.testing.assert_allclose(
            logs[0][column].dropna(), logs[1][column].dropna(), atol=1e-5, err_msg=column
        )


def test_extraction_fills_every_slide_once(tmp_path: Path) -> None:
    paint_cohort(tmp_path, n_patients=3, slides_per_patient=1, seed=0, size_px=1104)
    arguments = ["--data.cohort", "cohort.csv", "--data.grid.patch_px", "64", "--data.grid.mpp",
                 "1.0", "--model.encoder", "resnet18", "--model.weights", "random",
                 "--model.depths", "[layer1]", "--model.dtype", "float32"]  # fmt: skip
    in_two_processes(tmp_path, "extract", "--data.store", "two.zarr", *arguments)
    in_one = subprocess.run(
        [
            sys.executable,
            "-m",
            *["histotransfer_pl", "extract", "--data.store", "one.zarr"],
            *arguments,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert in_one.returncode == 0, in_one.stderr[-3000:]
    one, two = (FeatureStore.open(tmp_path / name) for name in ("one.zarr", "two.zarr"))
    assert one.slide_ids() == two.slide_ids()
    array = "features/resnet18-random0/layer1"
    for slide_id in one.slide_ids():
        found = [store.slide(slide_id).read(array) for store in (one, two)]
        np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert two.verify() == []
