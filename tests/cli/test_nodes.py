"""Two nodes, as two processes that Lightning joins by MASTER_ADDR, MASTER_PORT and NODE_RANK."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from histotransfer_pl.cli.main import main
from histotransfer_pl.slides.synthetic import paint_cohort
from histotransfer_pl.store.feature_store import FeatureStore

LAYER = "features/resnet18-random0/layer1"
GRID = "--data.cohort cohort.csv --data.grid.patch_px 56 --data.grid.mpp 1.0 --data.qc false"
ENCODER = "--model.encoder resnet18 --model.weights random --model.depths [layer1]"
TOPK = (
    "fit --data TopKPatchDataModule --data.store one.zarr --data.cohort cohort.csv "
    "--data.selection chosen --data.n_folds 3 --model TopKFineTuner "
    "--model.optimizer torch.optim.SGD --model.stage1 stage1 --model.encoder resnet18 "
    "--model.weights random --trainer.max_epochs 1 --trainer.enable_progress_bar false --run_dir"
)


def on_two_nodes(folder: Path, command: str) -> None:
    """What docs/tasks/clusters.md says of several nodes, on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = f"{command} --trainer.num_nodes 2 --trainer.devices 1 --trainer.strategy ddp".split()
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "histotransfer_pl", *words, "--trainer.accelerator", "cpu"],
            cwd=folder,
            env={
                **os.environ,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "NODE_RANK": str(rank),
                "WANDB_MODE": "disabled",
                "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for node in nodes:
        _, said = node.communicate(timeout=900)
        assert node.returncode == 0, said[-3000:]


@pytest.mark.slow
def test_extraction_and_fine_tuning_on_two_nodes_equal_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    paint_cohort(tmp_path, n_patients=6, slides_per_patient=1, seed=0, size_px=560)
    extract = f"extract {GRID} {ENCODER} --model.dtype float32 --data.store"
    on_two_nodes(tmp_path, f"{extract} two.zarr")
    assert main(f"{extract} one.zarr".split()) == 0
    one, two = (FeatureStore.open(f"{name}.zarr") for name in ("one", "two"))
    assert one.slide_ids() == two.slide_ids()
    assert two.verify() == []
    for slide_id in one.slide_ids():
        found = [store.slide(slide_id).read(LAYER) for store in (one, two)]
        np.testing.assert_allclose(found[0], found[1], atol=1e-5)

    stage1 = "--run_dir stage1 --data.store one.zarr --data.cohort cohort.csv --data.n_folds 3"
    assert main(f"fit {stage1} --trainer.max_epochs 1".split()) == 0
    assert main(["predict", "--run_dir", "stage1"]) == 0
    choose = ["--name", "chosen", "--top_k", "4", "--store", "one.zarr"]
    assert main(["select", "--run_dir", "stage1", *choose]) == 0
    on_two_nodes(tmp_path, f"{TOPK} tuned2 --data.batch_size 1")
    assert main(f"{TOPK} tuned1 --data.batch_size 2".split()) == 0
    states = [
        torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("tuned1", "tuned2")
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-6, msg=name)
