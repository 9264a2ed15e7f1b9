"""Which epoch is kept, when training ends, and a word where that choice is doubtful."""

import logging
import math
from collections.abc import Sequence
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor
from typing_extensions import override

from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.outcomes.kinds import kind_of

_log = logging.getLogger(__name__)

_LESS_IS_BETTER = ("loss", "brier", "ece", "error", "distance")
"""How the names of metrics end of which the least is best."""
_CLEAR_RISE = 0.05
"""Rise of the watched metric, or fall of the loss as a share of itself, that is worth a word."""


class BestCheckpoint(ModelCheckpoint):
    """Keeps the epoch that ``monitor`` says is best.

    Args:
        mode: Whether the ``min`` or ``max`` of ``monitor`` is best; by default what the metric
            says: the least loss, Brier score or calibration error, the most of every other one.
        patience: Training ends after so many epochs without a better one; by default never.
        ties: Which of several equally good epochs: the ``earliest``, as Lightning does, or the
            ``latest``, as HistoTransfer did. Accuracy on few slides is often tied.
        kwargs: Those of ``ModelCheckpoint``.
    """

    def __init__(
        self,
        *,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
        patience: int | None = None,
        ties: Literal["earliest", "latest"] = "earliest",
        **kwargs: Any,
    ) -> None:
        mode = mode or ("min" if str(monitor).endswith(_LESS_IS_BETTER) else "max")
        super().__init__(monitor=monitor, mode=mode, **kwargs)
        self.patience = patience
        self.ties = ties
        self._other = "val/loss"
        self._seen: list[tuple[float, float]] = []

    def early_end(self, given: Sequence[Callback]) -> list[Callback]:
        """What ends training by the same metric, unless ``given`` callbacks do."""
        if self.patience is None or any(isinstance(one, EarlyStopping) for one in given):
            return []
        end = EarlyStopping(str(self.monitor), patience=self.patience, mode=self.mode, strict=False)
        end.check_finite = False  # a part of one class has no AUROC
        return [end]

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data = getattr(trainer, "datamodule", None)
        task = data.source.target.task if isinstance(data, FeatureDataModule) else "classification"
        watched = f"val/{kind_of(task).watched}"
        self._other = watched if self.monitor == "val/loss" else "val/loss"
        super().setup(trainer, pl_module, stage)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = trainer.callback_metrics
        if not trainer.sanity_checking and self.monitor in metrics and self._other in metrics:
            self._seen.append((float(metrics[self.monitor]), float(metrics[self._other])))
        super().on_validation_end(trainer, pl_module)

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        doubt = first_epoch_warning(self._seen, str(self.monitor), self.mode, self._other)
        if doubt is not None and trainer.is_global_zero:
            _log.warning(doubt)

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


def first_epoch_warning(
    seen: Sequence[tuple[float, float]], monitor: str, mode: str, other: str
) -> str | None:
    """A warning where the first epoch is kept though the network went on learning by another sign.

    Args:
        seen: Monitored and other metric of each epoch.
        monitor: Name of the monitored metric.
        mode: Whether its ``min`` or ``max`` is best.
        other: Name of the other metric, ``val/loss`` or one of which more is better.
    """
    if len(seen) < 3:
        return None
    sign = 1 if mode == "min" else -1
    best = min(range(len(seen)), key=lambda epoch: sign * seen[epoch][0])
    less_is_better = other == "val/loss"
    values = [-value if less_is_better else value for _, value in seen]
    later = max(range(len(values)), key=lambda epoch: values[epoch])
    scale = abs(values[0]) if less_is_better else 1.0
    if best != 0 or not math.isfinite(values[0]) or values[later] - values[0] < _CLEAR_RISE * scale:
        return None
    return (
        f"the first of {len(seen)} epochs is kept ({monitor} {seen[0][0]:.3f}), but {other} went "
        f"from {seen[0][1]:.3f} to {seen[later][1]:.3f} by epoch {later + 1}: lower the learning "
        f"rate (model.optimizer.init_args.lr), or let {other} choose (checkpoint.monitor and mode)"
    )
