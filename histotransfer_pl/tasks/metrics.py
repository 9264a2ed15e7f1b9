"""Metrics of slides: each slide counts once, whatever its number of patches."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    accuracy,
    auroc,
    average_precision,
    calibration_error,
    f1_score,
)
from typing_extensions import override


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


def slide_metrics(probabilities: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Slide-level AUROC, AUPRC, balanced accuracy, accuracy, F1 and expected calibration error.

    Args:
        probabilities: (S, C) class probabilities.
        labels: (S,) true classes.

    Returns:
        One value a name. With two classes they are those of the second class; with more, macro
        averages (accuracy apart). Calibration: 15 bins, the confidence of the predicted class.
    """
    c = probabilities.shape[1]
    predicted = probabilities.argmax(-1)  # (S,)
    if c == 2:
        positive = probabilities[:, 1]  # (S,)
        ranking = {
            "auroc": auroc(positive, labels, task="binary"),
            "auprc": average_precision(positive, labels, task="binary"),
            "f1": f1_score(predicted, labels, task="binary"),
        }
    else:
        ranking = {
            "auroc": auroc(probabilities, labels, task="multiclass", num_classes=c),
            "auprc": average_precision(probabilities, labels, task="multiclass", num_classes=c),
            "f1": f1_score(predicted, labels, task="multiclass", num_classes=c, average="macro"),
        }
    return {
        **{name: torch.as_tensor(value) for name, value in ranking.items()},
        "balanced_accuracy": accuracy(
            predicted, labels, task="multiclass", num_classes=c, average="macro"
        ),
        "accuracy": accuracy(predicted, labels, task="multiclass", num_classes=c, average="micro"),
        "ece": calibration_error(
            probabilities, labels, task="multiclass", num_classes=c, n_bins=15
        ),
    }


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """A list state is already one tensor after ranks were joined."""
    return state if isinstance(state, Tensor) else torch.cat(state)
