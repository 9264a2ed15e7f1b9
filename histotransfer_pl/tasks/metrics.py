"""Predictions of slides over all ranks: each slide counts once, whatever its number of patches.

The metrics are those of `histotransfer_pl.analysis`, as in the study and the report.
"""

from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from histotransfer_pl.outcomes.outcome import Outcome

T = TypeVar("T")


class Predictions(NamedTuple):
    """Predictions of an epoch over all ranks, sorted by slide.

    Attributes:
        outputs: (S, O) what the head gave, float32.
        targets: (S,) or (S, K) true targets.
        indices: (S,) places in the datamodule's list.
    """

    outputs: Tensor
    targets: Tensor
    indices: Tensor


class SlidePredictions(Metric):
    """Collects predictions and joins those of all ranks, so that metrics are exact under DDP."""

    full_state_update = False
    outputs: list[Tensor]
    targets: list[Tensor]
    indices: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in Predictions._fields:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    @override
    def update(self, outputs: Tensor, targets: Tensor, indices: Tensor) -> None:
        """Add (S, O) outputs, (S,) or (S, K) targets and (S,) indices."""
        self.outputs.append(outputs.detach().float())
        self.targets.append(targets)
        self.indices.append(indices)

    @override
    def compute(self) -> Predictions:
        indices = _joined(self.indices)  # (S,)
        order = indices.argsort()
        return Predictions(
            _joined(self.outputs)[order], _joined(self.targets)[order], indices[order]
        )


def slide_metrics(outcome: Outcome, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Every metric of an outcome by its name.

    Args:
        outcome: What is predicted.
        outputs: (S, O) what the head gave.
        targets: (S,) or (S, K) true targets.

    Returns:
        With two classes the values of the second class, with more macro averages; NaN where the
        slides do not define a metric, such as the AUROC of one class.
    """
    truth = targets.cpu().numpy()  # (S,) or (S, K)
    truth = truth if truth.dtype.kind == "i" else truth.astype(np.float64)
    scores = outcome.scores(outputs).double().cpu().numpy()  # (S,) or (S, K)
    weights, folds = np.ones((1, len(truth))), np.zeros(len(truth), np.int64)
    metrics = outcome.metrics()
    return {
        name: float(metric(truth, scores, weights, folds)[0]) for name, metric in metrics.items()
    }


def from_all_ranks(trainer: Trainer, own: T) -> list[T]:
    """What each rank has, by rank."""
    if trainer.world_size == 1:
        return [own]
    shares: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(shares, own)
    return shares


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """A list state is already one tensor after ranks were joined."""
    return state if isinstance(state, Tensor) else torch.cat(state)
