"""Whole commands on a GPU, as a user runs them: `python -m benchmarks.gpu_jobs --device cuda`."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.material import ragged_lengths, write_bags
from benchmarks.program import run
from benchmarks.result import Result, from_times, left_out, rounds_in_time, seconds
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.slides.synthetic import SYNTHETIC_MPP, paint_cohort

_ROOT = Path(__file__).resolve().parents[1]
_PATIENCE_S = 240
"""A command that takes longer is ended."""
_RANKS, _BATCH = 2, 3
"""Processes that train together, and slides of a batch of each."""


class JobError(RuntimeError):
    """A command failed, or took too long."""


class Jobs:
    """Painted slides in a folder, and the commands that work on them there."""

    def __init__(
        self, folder: Path, slides: int, size_px: int, patch_px: int, encoder: str, epochs: int
    ) -> None:
        self.folder = folder
        self.size_px, self.patch_px = size_px, patch_px
        self.encoder, self.epochs = encoder, epochs
        self.cohort = paint_cohort(folder, slides // 2, size_px=size_px)

    def extraction(self, device: str) -> str:
        """Extract one depth into a store of the device's own."""
        return (
            f"extract --data.cohort cohort.csv --data.store {device}.zarr --data.qc false "
            f"--data.grid.patch_px {self.patch_px} --data.grid.mpp {SYNTHETIC_MPP} "
            f"--model.encoder {self.encoder} --model.weights random "
            f"--trainer.accelerator {accelerator(device)} --trainer.enable_progress_bar false"
        )

    def study(self, device: str) -> str:
        """Two random networks, two depths each, an attention head, one fold, the report."""
        trainer = {"accelerator": accelerator(device), "enable_progress_bar": False}
        network = {"name": self.encoder, "weights": "random", "depths": ["layer2", "layer4"]}
        settings: dict[str, Any] = {
            "name": "painted",
            "study_dir": f"study_{device}",
            "cohort": "cohort.csv",
            "grid": {"patch_px": self.patch_px, "mpp": SYNTHETIC_MPP},
            "encoders": [{**network, "seed": seed} for seed in (0, 1)],
            "heads": {"attention": {"class_path": "AttentionHead"}},
            "folds": {"n_folds": 3, "run": [0]},
            "extract": {"data": {"qc": False}, "trainer": trainer},
            "fit": {"trainer": {**trainer, "max_epochs": self.epochs}},
        }
        (self.folder / f"{device}.yaml").write_text(json.dumps(settings))  # JSON is YAML too
        return f"study --config {device}.yaml"

    def gain(self, device: str) -> str:
        """Probe two depths on tiles that bear the label of their slide, and five random twins."""
        steps = range(0, self.size_px - self.patch_px + 1, 2 * self.patch_px)
        places = pd.DataFrame([{"x": x, "y": y} for x in steps for y in steps])
        tiles = pd.read_csv(self.cohort).drop(columns="path").merge(places, how="cross")
        tiles.to_csv(self.folder / "tiles.csv", index=False)
        # Weights that say of themselves that they are random are refused.
        network = build_encoder(EncoderConfig(self.encoder, weights="random", seed=9)).network
        tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
        save_file(tensors, self.folder / "weights.safetensors")
        return (
            f"gain --tiles tiles.csv --images slides --patch_px {self.patch_px} "
            f"--encoder.name {self.encoder} --encoder.weights weights.safetensors "
            "--encoder.depths [layer2,layer4] "
            "--probe.n_folds 2 --probe.n_inner_folds 2 --probe.penalties [0.01] "
            f"--output gain_{device}.csv --device {device}"
        )


def measure(
    slides: int = 12,
    size_px: int = 2688,
    patch_px: int = 224,
    encoder: str = "resnet50",
    epochs: int = 10,
    bags: int = 40,
    width: int = 512,
    device: str = "cpu",
) -> list[Result]:
    """Seconds of whole commands on the CPU by those on the GPU; two ranks that share a device.

    A command counts from its start to its end, once on each device. On a CPU there is nothing to
    compare it with, so it only has to run.

    Args:
        slides: Painted slides, two of each patient.
        size_px: Their side.
        patch_px: Side of a patch.
        encoder: Name of a ResNet; its weights are random.
        epochs: Epochs of each fit of the study.
        bags: Slides of random features on which the ranks train.
        width: Features of a patch there.
        device: cpu or cuda.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        jobs = Jobs(folder, slides, size_px, patch_px, encoder, epochs)
        commands = {
            f"extract of {slides} slides, {encoder}": jobs.extraction,
            "study of two networks, two depths, one fold": jobs.study,
            "gain of two depths against five random networks": jobs.gain,
        }
        rows = [partial(two_ranks, folder, bags, width, device)]
        rows += [partial(against_cpu, what, job, folder, device) for what, job in commands.items()]
        # Whoever has little time gets the first rows.
        return [rows[number]() for number in rounds_in_time(len(rows), least=1)]


def two_ranks(folder: Path, bags: int, width: int, device: str) -> Result:
    """The same training in one process, and in two that share the device."""
    name = "largest difference of losses, two ranks on one device vs one process"
    goal = 1e-3 if device == "cuda" else 1e-5
    write_bags(folder / "bags.zarr", folder / "bags.csv", ragged_lengths(bags, 50, 500), width)
    fit = (
        "fit --data.store bags.zarr --data.cohort bags.csv --trainer.max_epochs 2 "
        f"--trainer.accelerator {accelerator(device)} --trainer.devices 1 "
        "--trainer.enable_progress_bar false"
    )
    # Lightning gives no device to two ranks of a node, and NCCL to none of two nodes; gloo does.
    together = (
        f"{fit} --run_dir two --data.batch_size {_BATCH} --trainer.num_nodes {_RANKS} "
        "--trainer.strategy DDPStrategy --trainer.strategy.process_group_backend gloo"
    )
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    try:
        call(folder, f"{fit} --run_dir one --data.batch_size {_RANKS * _BATCH}")
        call(folder, together, [{**place, "NODE_RANK": str(rank)} for rank in range(_RANKS)])
    except JobError as error:
        return left_out(name, goal, str(error))
    logs = [pd.read_csv(folder / run / "metrics/fit/metrics.csv") for run in ("one", "two")]
    far: dict[str, float] = {}
    for column in ("train/loss", "val/loss"):
        one, two = (log[column].dropna().to_numpy(float) for log in logs)
        far[column] = float(np.abs(one - two).max())
    weights = weights_apart(*(folder / run / "checkpoints/last.ckpt" for run in ("one", "two")))
    notes = ", ".join(f"{what} {value:.2g}" for what, value in {**far, "weights": weights}.items())
    return Result(
        name,
        max(far.values()),
        goal,
        unit="loss",
        notes=f"{notes}; {bags} slides, 2 epochs, DDP over gloo",
        device=device,
    )


def against_cpu(what: str, job: Callable[[str], str], folder: Path, device: str) -> Result:
    """Seconds of a command on the CPU by those on the device."""
    name = f"{what}: whole command, GPU vs CPU"
    try:
        ours = seconds(partial(call, folder, job(device)))
        if device == "cpu":
            return left_out(name, 1.0, f"needs a GPU; {ours:.0f} s without one", at_least=True)
        theirs = seconds(partial(call, folder, job("cpu")))
    except JobError as error:
        return left_out(name, 1.0, str(error), at_least=True)
    return from_times(
        *(name, 1.0, [ours], [theirs]),
        speedup=True,
        notes=f"one run each, {torch.get_num_threads()} threads on the CPU",
        device=device,
    )


def accelerator(device: str) -> str:
    """What Lightning calls a device."""
    return "gpu" if device == "cuda" else "cpu"


def call(folder: Path, command: str, places: Sequence[Mapping[str, str]] = ({},)) -> None:
    """Run a command in the folder, in as many processes at once as it has environments.

    Raises:
        JobError: If one of them fails, or takes too long; the message has its last words.
    """
    words = [sys.executable, "-m", "histotransfer_pl", *command.split()]
    paths = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in places]
        processes = [
            subprocess.Popen(
                words,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": paths, **place},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            for place, said in zip(places, files, strict=True)
        ]
        try:
            for process in processes:
                process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise JobError(f"{words[3]} took more than {_PATIENCE_S} s") from error
        finally:
            for process in processes:
                process.kill()
                process.wait()
        for process, said in zip(processes, files, strict=True):
            if process.returncode:
                said.seek(0)
                last = said.read().decode(errors="replace").split()[-60:]
                raise JobError(f"{words[3]} failed: {' '.join(last)}")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def weights_apart(*checkpoints: Path) -> float:
    """The largest difference of the weights of two checkpoints."""
    states: list[dict[str, Tensor]] = [
        torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        for path in checkpoints
    ]
    # The softmax cancels the bias of the attention logit, so its gradient is rounding noise.
    names = [name for name, value in states[0].items() if value.numel() > 1]
    return max(float((states[0][name] - states[1][name]).abs().max()) for name in names)


if __name__ == "__main__":
    small = {"slides": 8, "size_px": 560, "patch_px": 64, "epochs": 2, "bags": 20, "width": 16}
    run("gpu_jobs", measure, {"encoder": "timm:test_resnet", **small})
