"""Which epoch is kept when several are equally good."""

from typing import Any, Literal

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from typing_extensions import override


class BestCheckpoint(ModelCheckpoint):
    """Keeps the epoch that ``monitor`` says is best.

    Args:
        ties: Which of several equally good epochs: the ``earliest``, as Lightning does, or the
            ``latest``, as HistoTransfer did. Accuracy on few slides is often tied.
        kwargs: Those of ``ModelCheckpoint``.
    """

    def __init__(self, *, ties: Literal["earliest", "latest"] = "earliest", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ties = ties

    @override
    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        if super().check_monitor_top_k(trainer, current):
            return True
        if current is None or self.ties == "earliest" or not self.kth_best_model_path:
            return False
        # Not torch.equal: after resuming, the best value lies on the CPU.
        tied = bool(current == self.best_k_models[self.kth_best_model_path])
        decided: bool = trainer.strategy.reduce_boolean_decision(tied)
        return decided
