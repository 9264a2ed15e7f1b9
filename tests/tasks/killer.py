"""A callback that stops a fit as a kill would."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override


class Killer(Callback):
    """Raises in the first step of an epoch.

    Args:
        epoch: Which epoch.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError(f"killed in epoch {self.epoch}")
