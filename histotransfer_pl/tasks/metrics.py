"""Metrics of slides over all ranks: each slide counts once, whatever its number of patches.

The numbers are those of `histotransfer_pl.analysis.metrics`, as in the study and the report.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from histotransfer_pl.analysis.metrics import METRICS


class Predictions(NamedTuple):
    """Predictions of an epoch over all ranks, sorted by slide.

    Attributes:
        probabilities: (S, C) class probabilities, float32.
        labels: (S,) true classes.
        indices: (S,) places in the datamodule's list.
    """

    probabilities: Tensor
    labels: Tensor
    indices: Tensor


class SlidePredictions(Metric):
    """Collects predictions and joins those of all ranks, so that metrics are exact under DDP."""

    full_state_update = False
    probabilities: list[Tensor]
    labels: list[Tensor]
    indices: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("probabilities", "labels", "indices"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    @override
    def update(self, probabilities: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Add (S, C) probabilities, (S,) labels and (S,) indices."""
        self.probabilities.append(probabilities.detach().float())
        self.labels.append(labels)
        self.indices.append(indices)

    @override
    def compute(self) -> Predictions:
        indices = _joined(self.indices)  # (S,)
        order = indices.argsort()
        return Predictions(
            _joined(self.probabilities)[order], _joined(self.labels)[order], indices[order]
        )


def slide_metrics(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Every classification metric of slides by its name.

    Args:
        probabilities: (S, C) class probabilities.
        labels: (S,) true classes.

    Returns:
        With two classes the values of the second class, with more macro averages; NaN where the
        slides do not define a metric, such as the AUROC of one class.
    """
    classes = labels.cpu().numpy()  # (S,)
    scores = probabilities.double().cpu().numpy()  # (S, C)
    weights, folds = np.ones((1, len(classes))), np.zeros(len(classes), np.int64)
    return {
        name: float(metric(classes, scores, weights, folds)[0]) for name, metric in METRICS.items()
    }


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """A list state is already one tensor after ranks were joined."""
    return state if isinstance(state, Tensor) else torch.cat(state)
