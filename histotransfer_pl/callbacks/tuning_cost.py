"""What a fine-tuning takes: parameters that train, memory of a step, seconds of an epoch."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from histotransfer_pl.encoders.memory import TensorMemory
from histotransfer_pl.records.files import write_text
from histotransfer_pl.runs.tuning_cost import FILE
from histotransfer_pl.tasks.finetune import TopKFineTuner


class TuningCostWriter(Callback):
    """Writes ``tuning_cost.json`` when a fine-tuning ends; does nothing for other tasks.

    Memory is that of the first step: weights, patches, and on a CPU every tensor made in the step
    (gradients, optimizer, activations), counted one by one; on a GPU what its allocator reports.
    """

    def __init__(self) -> None:
        self.peak = 0
        self.seconds = 0.0
        self.epochs = 0
        self._start = 0.0
        self._memory: TensorMemory | None = None

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(pl_module, TopKFineTuner) or self.peak:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        else:
            self._memory = TensorMemory()
            self._memory.__enter__()  # type: ignore[no-untyped-call]

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(pl_module, TopKFineTuner) or self.peak:
            return
        if pl_module.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(pl_module.device)
        elif self._memory is not None:
            held = [*pl_module.parameters(), *pl_module.buffers(), batch.features]
            self.peak = self._memory.peak + sum(tensor.nbytes for tensor in held)
            self._leave()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += time.perf_counter() - self._start
        self.epochs += 1

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._leave()

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, TopKFineTuner) or not trainer.is_global_zero:
            return
        counts = [(p.numel(), p.requires_grad) for p in pl_module.encoder.parameters()]
        device = pl_module.device
        facts = {
            "trained_parameters": sum(n for n, trains in counts if trains),
            "parameters": sum(n for n, _ in counts),
            "peak_mib": round(self.peak / 2**20, 1),
            "seconds_per_epoch": round(self.seconds / max(1, self.epochs), 2),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        }
        write_text(Path(trainer.default_root_dir) / FILE, json.dumps(facts, indent=1) + "\n")

    def _leave(self) -> None:
        if self._memory is not None:
            self._memory.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._memory = None
