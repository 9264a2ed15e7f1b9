"""Training through the Trainer against a bare loop: `python -m benchmarks.mil_epoch`."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from typing_extensions import override

from benchmarks.material import FEATURES, ragged_lengths, write_bags
from benchmarks.program import run
from benchmarks.result import Result, from_times
from histotransfer_pl.callbacks.loggers import default_loggers
from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.models.heads import AttentionHead
from histotransfer_pl.tasks.heap import keep_freed_memory
from histotransfer_pl.tasks.mil import AttentionMIL


class BareLoop:
    """The same head, optimizer and bags, and nothing else."""

    def __init__(self, bags: list[Tensor], labels: list[int], device: str) -> None:
        self.bags = [bag.to(device) for bag in bags]
        self.labels = [torch.tensor([label], device=device) for label in labels]
        self.lengths = [torch.tensor([len(bag)]) for bag in bags]
        self.head = AttentionHead(bags[0].shape[1], 2).to(device)
        assert self.head.patch_classifier is not None
        self.head.patch_classifier.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=5e-4, weight_decay=0.01)
        self.device = device

    def epoch(self) -> None:
        """One pass over all bags, in random order."""
        for place in torch.randperm(len(self.bags)).tolist():
            self.optimizer.zero_grad()
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                output = self.head(self.bags[place], self.lengths[place])
                loss = F.cross_entropy(output.logits, self.labels[place])
            loss.backward()
            self.optimizer.step()


class TurnByTurn(Callback):
    """Runs an epoch of another way before each epoch of the Trainer, and times both."""

    def __init__(self, other: Callable[[], None]) -> None:
        self.other = other
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self._mark = 0.0

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # From one start to the next: logging and the checkpoint of the epoch count.
        on_gpu = pl_module.device.type == "cuda"
        start = _now(on_gpu=on_gpu)
        self.other()
        end = _now(on_gpu=on_gpu)
        if trainer.current_epoch:
            self.ours.append(start - self._mark)
            self.theirs.append(end - start)
        self._mark = end


def _now(*, on_gpu: bool) -> float:
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


class TimedTraining:
    """A cohort of random bags; `AttentionMIL` trains on it, turn by turn with another way."""

    def __init__(self, folder: Path, lengths: list[int], width: int) -> None:
        self.folder = folder
        self.root, self.table = folder / "bags.zarr", folder / "cohort.csv"
        write_bags(self.root, self.table, lengths, width)
        data = self.data(1)
        data.setup("fit")
        train = data.bags[data.bags["part"] == "train"]
        self.bags = [
            torch.from_numpy(data.store.slide(s).read(FEATURES)).float() for s in train["slide_id"]
        ]
        self.labels = [data.classes.index(label) for label in train["label"]]

    def data(self, batch_size: int) -> FeatureDataModule:
        """The cohort as the Trainer gets it."""
        return FeatureDataModule(self.root, self.table, batch_size=batch_size)

    def times(
        self, other: Callable[[], None], epochs: int, device: str, batch_size: int = 1
    ) -> tuple[list[float], list[float]]:
        """Seconds of our epochs and of the others: datamodule, Trainer, CSV log, checkpoints."""
        watch = TurnByTurn(other)
        trainer = Trainer(
            # The first epoch reads the bags; the last has no next start.
            max_epochs=epochs + 2,
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if device == "cuda" else "32-true",
            logger=default_loggers(self.folder, f"fit{batch_size}"),
            limit_val_batches=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            log_every_n_steps=1,
            callbacks=[ModelCheckpoint(self.folder), watch],
        )
        trainer.fit(AttentionMIL(), self.data(batch_size))
        return watch.ours[1:], watch.theirs[1:]


def measure(
    bags: int | None = None,
    smallest: int = 500,
    largest: int = 4_000,
    width: int = 512,
    epochs: int | None = None,
    device: str = "cpu",
) -> list[Result]:
    """`AttentionMIL` through datamodule, Trainer, CSV log and checkpoints, by a bare loop.

    Args:
        bags: Slides of the cohort, of which three fifths train; by default 60 on the CPU and 330
            on a GPU, whose epoch of 36 bags would be spent on writing its checkpoint.
        smallest: Patches of the smallest bag.
        largest: Patches of the largest.
        width: Features of a patch.
        epochs: Epochs that count; by default 12 on the CPU and 5 on a GPU.
        device: cpu or cuda.
    """
    keep_freed_memory()  # for both ways, as the command line does
    bags = bags or (330 if device == "cuda" else 60)
    epochs = epochs or (5 if device == "cuda" else 12)
    with tempfile.TemporaryDirectory() as name:
        training = TimedTraining(Path(name), ragged_lengths(bags, smallest, largest), width)
        count = len(training.bags)
        bare = BareLoop(training.bags, training.labels, device)
        ours, theirs = training.times(bare.epoch, epochs, device)
    return [
        from_times(
            "AttentionMIL epoch through the Trainer vs a bare loop",
            *(1.15, ours, theirs),
            notes=f"{count} bags of {smallest} to {largest} patches x {width}, first epoch left "
            "out",
            device=device,
            amount=count,
            unit="bags",
        )
    ]


if __name__ == "__main__":
    run("mil_epoch", measure, {"bags": 10, "largest": 1_000, "epochs": 3})
