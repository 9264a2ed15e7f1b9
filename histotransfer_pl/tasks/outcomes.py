"""What is learnt about a slide: one strategy per kind of target, for every module with a head.

The design. A head turns a bag into O numbers and knows nothing of what they mean; an `Outcome`
says how many they are, what they cost against the targets, and what becomes of them in tables and
metrics. A LightningModule holds one Outcome and asks it four things:

- `configure_model`: `make_head(in_features, outcome.n_outputs)`;
- `training_step`: `outcome.losses(output.logits, batch.targets)`, (S,), weighted per slide as now;
- evaluation: `outcome.scores(output.logits)`, (S,) or (S, K), collected over ranks beside the
  targets and joined into `analysis.predictions.Predictions(..., task=outcome.task)`;
- logging and tables: `outcome.metrics()`, the first of which is watched, and `outcome.columns()`
  as names of the score columns of the predictions table.

What needs the training part (classes, scale of the targets, times of events) is given to the
constructor by the datamodule, so an Outcome is a frozen value with a JSON form that travels in the
checkpoint, the run record and the model file; two runs can be compared if their Outcomes are
equal. Class weights and the patch loss stay with the module: they are about classes only.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from histotransfer_pl.analysis.metrics import METRICS, Metric, auroc
from histotransfer_pl.analysis.survival import (
    c_index,
    integrated_brier,
    of_survival,
    time_dependent_auc,
)
from histotransfer_pl.analysis.targets import Task
from histotransfer_pl.analysis.values import (
    TargetScale,
    class_distance,
    macro_auprc,
    macro_auroc,
    mean_absolute_error,
    of_label,
    quadratic_kappa,
    r2,
    spearman,
)
from histotransfer_pl.models.losses import (
    cox_loss,
    hazard_loss,
    hazard_survival,
    multilabel_loss,
    ordinal_loss,
    ordinal_probabilities,
    regression_loss,
)


class Outcome(ABC):
    """A kind of target: its loss, its scores and its metrics."""

    task: ClassVar[Task]

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Numbers O that the head gives per slide."""

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each slide (S,) from outputs (S, O) and targets of this task."""

    @abstractmethod
    def scores(self, outputs: Tensor) -> Tensor:
        """What the metrics take, (S,) or (S, K), from outputs (S, O)."""

    @abstractmethod
    def columns(self) -> list[str]:
        """Name of each column of the scores in a table of predictions."""

    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """Metrics of the scores by name; training watches the first."""


@dataclass(frozen=True)
class Classes(Outcome):
    """One of several classes."""

    classes: tuple[str, ...]
    task: ClassVar[Task] = "classification"

    @property
    @override
    def n_outputs(self) -> int:
        return len(self.classes)

    @override
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

    @override
    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.float().softmax(-1)

    @override
    def columns(self) -> list[str]:
        return [f"p_{name}" for name in self.classes]

    @override
    def metrics(self) -> Mapping[str, Metric]:
        return METRICS


@dataclass(frozen=True)
class OrderedClasses(Classes):
    """One of several classes with an order, lowest first."""

    task: ClassVar[Task] = "ordinal"

    @property
    @override
    def n_outputs(self) -> int:
        return len(self.classes) - 1

    @override
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ordinal_loss(outputs, targets)

    @override
    def scores(self, outputs: Tensor) -> Tensor:
        return ordinal_probabilities(outputs.float())

    @override
    def metrics(self) -> Mapping[str, Metric]:
        return {"quadratic_kappa": quadratic_kappa, "class_distance": class_distance, **METRICS}


@dataclass(frozen=True)
class Labels(Outcome):
    """Several labels at once, each present, absent or missing."""

    labels: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    task: ClassVar[Task] = "multilabel"

    @property
    @override
    def n_outputs(self) -> int:
        return len(self.labels)

    @override
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weights = None if self.weights is None else outputs.new_tensor(self.weights)
        return multilabel_loss(outputs, targets, weights)

    @override
    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid()

    @override
    def columns(self) -> list[str]:
        return [f"p_{name}" for name in self.labels]

    @override
    def metrics(self) -> Mapping[str, Metric]:
        each = {f"auroc_{name}": of_label(auroc, n) for n, name in enumerate(self.labels)}
        return {"macro_auroc": macro_auroc, "macro_auprc": macro_auprc, **each}


@dataclass(frozen=True)
class Value(Outcome):
    """A number, learnt on the scale of the training part, told in its own unit.

    Attributes:
        scale: Of the training targets.
        delta: Corner of Huber's loss in deviations; None for the squared error.
    """

    scale: TargetScale
    delta: float | None = None
    task: ClassVar[Task] = "regression"

    @property
    @override
    def n_outputs(self) -> int:
        return 1

    @override
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        scaled = (targets - self.scale.mean) / self.scale.deviation  # (S,)
        return regression_loss(outputs[:, 0], scaled.to(outputs.dtype), self.delta)

    @override
    def scores(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0].float() * self.scale.deviation + self.scale.mean

    @override
    def columns(self) -> list[str]:
        return ["predicted"]

    @override
    def metrics(self) -> Mapping[str, Metric]:
        return {"r2": r2, "spearman": spearman, "mean_absolute_error": mean_absolute_error}


@dataclass(frozen=True)
class Risk(Outcome):
    """Time to an event as a proportional hazard (Cox); a step needs several slides.

    Attributes:
        times: When the time-dependent AUC looks, from the training part (`survival.horizons`).
    """

    times: tuple[float, ...]
    task: ClassVar[Task] = "survival"

    @property
    @override
    def n_outputs(self) -> int:
        return 1

    @override
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cox_loss(outputs[:, 0], targets[:, 0], targets[:, 1])

    @override
    def scores(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0].float()

    @override
    def columns(self) -> list[str]:
        return ["risk"]

    @override
    def metrics(self) -> Mapping[str, Metric]:
        return {"c_index": c_index, "time_dependent_auc": time_dependent_auc(self.times)}


@dataclass(frozen=True)
class Hazards(Outcome):
    """Time to an event in intervals, each with its hazard; one slide per step is enough.

    Attributes:
        times: Ends of the intervals but the last, which is open (`survival.horizons`).
    """

    times: tuple[float, ...]
    task: ClassVar[Task] = "survival"

    @property
    @override
    def n_outputs(self) -> int:
        return len(self.times) + 1

    @override
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        # an event at the end of an interval belongs to it
        place = torch.searchsorted(
            targets.new_tensor(self.times), targets[:, 0].contiguous()
        )  # (S,)
        return hazard_loss(outputs, place, targets[:, 1] == 1)

    @override
    def scores(self, outputs: Tensor) -> Tensor:
        return hazard_survival(outputs.float())[:, :-1]

    @override
    def columns(self) -> list[str]:
        return [f"survival_{time:g}" for time in self.times]

    @override
    def metrics(self) -> Mapping[str, Metric]:
        return {
            "c_index": of_survival(c_index),
            "time_dependent_auc": of_survival(time_dependent_auc(self.times)),
            "integrated_brier": integrated_brier(self.times),
        }
