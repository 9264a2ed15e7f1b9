"""Memory of a fine-tuning step, by slide size: `python -m benchmarks.finetune_memory`."""

import tempfile
import warnings
from contextlib import chdir
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from benchmarks.program import run
from benchmarks.result import Result
from benchmarks.topk_material import prepare
from histotransfer_pl.data.topk import TopKPatchDataModule
from histotransfer_pl.encoders.memory import TensorMemory
from histotransfer_pl.tasks.finetune import TopKFineTuner

_SIDE = 32
_PATIENTS = 6
ENCODER = "timm:test_resnet"


class StepMemory(Callback):
    """Counts the bytes of tensors in every step."""

    def __init__(self) -> None:
        self.training = 0
        self.validation = 0
        self._memory = TensorMemory()

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._begin()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.training = max(self.training, self._end() + batch.features.nbytes)

    @override
    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._begin()

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.validation = max(self.validation, self._end() + batch.patches.nbytes)

    def _begin(self) -> None:
        self._memory = TensorMemory()
        self._memory.__enter__()  # type: ignore[no-untyped-call]

    def _end(self) -> int:
        self._memory.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        return self._memory.peak


def measure(small: int = 1_000, large: int = 20_000, k: int = 64) -> list[Result]:
    """Peak bytes of the tensors of a step, for slides of ``small`` and ``large`` patches."""
    peaks = {}
    for n in (small, large):
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            prepare(n, k, _SIDE, ENCODER, _PATIENTS)
            peaks[n] = _finetune()
    few, many = peaks[small], peaks[large]
    notes = (
        f"{many.training / 1e6:.1f} MB against {few.training / 1e6:.1f} MB, k {k}; a step of "
        f"evaluation, which keeps the features of the open slide, {many.validation / 1e6:.1f} MB "
        f"against {few.validation / 1e6:.1f} MB"
    )
    name = f"peak memory of a training step, slides of {large:,} and {small:,} patches"
    return [Result(name, many.training / few.training, 1.05, "bytes / bytes", notes=notes)]


def _finetune() -> StepMemory:
    memory = StepMemory()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=[memory],
    )
    task = TopKFineTuner(Path("stage1"), ENCODER, "random")
    data = TopKPatchDataModule(Path("s.zarr"), Path("c.csv"), "top", n_folds=3, cache_gb=0.01)
    with warnings.catch_warnings():
        # Threads of this process read; BatchNorm layers that keep their statistics are in eval.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")
        trainer.fit(task, data)
    return memory


if __name__ == "__main__":
    run("finetune_memory", measure, {"small": 200, "large": 600, "k": 8})
