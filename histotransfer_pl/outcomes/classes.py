"""One of several classes, with or without an order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import override

from histotransfer_pl.errors import CohortError, ConfigError, SplitError, shorten
from histotransfer_pl.outcomes.outcome import ClassWeights, Outcome, require_columns_of
from histotransfer_pl.outcomes.words import clean_labels, sort_classes
from histotransfer_pl.records.run import TargetSpec, TaskKind, choose_positive

if TYPE_CHECKING:
    from torch import Tensor

    from histotransfer_pl.analysis.compare import Comparison
    from histotransfer_pl.analysis.metrics import Metric
    from histotransfer_pl.analysis.predictions import Predictions

_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "auroc": "AUROC",
        "auprc": "AUPRC",
        "balanced_accuracy": "Balanced accuracy",
        "f1": "F1",
        "brier": "Brier score",
        "ece": "ECE",
    }
)


@dataclass(frozen=True)
class Classes(Outcome):
    """One of several classes."""

    task: ClassVar[TaskKind] = "classification"
    watched: ClassVar[str] = "auroc"

    @classmethod
    @override
    def truth(cls, columns: Sequence[str]) -> list[str]:
        return ["label"]

    @classmethod
    @override
    def read(cls, table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
        require_columns_of(cls, columns, 1, "one column, with the class of each slide,")
        return pd.DataFrame({"label": clean_labels(table[columns[0]])})

    @classmethod
    @override
    def describe(
        cls, rows: pd.DataFrame, columns: Sequence[str], positive: str | None, order: Sequence[str]
    ) -> TargetSpec:
        classes = _in_order(rows, columns[0], order)
        if len(classes) < 2:
            raise SplitError(
                f"column {columns[0]} has only the class {shorten(classes)}; need at least two"
            )
        chosen = choose_positive(tuple(classes), positive)
        if len(classes) == 2:
            classes.sort(key=lambda name: name == chosen)
        return TargetSpec(columns[0], tuple(classes), chosen if len(classes) == 2 else None)

    @classmethod
    @override
    def lacks(cls, part: pd.DataFrame, whole: pd.DataFrame, *, learning: bool) -> str:
        missing = sorted(set(whole["label"].unique()) - set(part["label"].unique()))
        return f"no slide of class {shorten(missing)}" if missing else ""

    @classmethod
    @override
    def unlike(cls, rows: pd.DataFrame, trained: TargetSpec) -> str:
        unknown = rows[~rows["label"].isin(trained.classes)]
        if unknown.empty:
            return ""
        return (
            f"{len(unknown)} slides have labels that the model does not know: "
            f"{shorten(sorted(unknown['label'].unique()))}; its classes are "
            f"{', '.join(trained.classes)}: rename them, or leave these labels empty"
        )

    @classmethod
    @override
    def balance(cls, rows: pd.DataFrame, spec: TargetSpec) -> str:
        return ", ".join(f"{name}: {(rows['label'] == name).sum()}" for name in spec.classes)

    @override
    def encode(self, rows: pd.DataFrame) -> NDArray[np.int64]:
        number = {name: place for place, name in enumerate(self.spec.classes)}
        return np.array([number.get(name, -1) for name in rows["label"]], np.int64)

    @override
    def of_patient(self, rows: pd.DataFrame) -> dict[str, Any]:
        # A patient is positive if any slide is.
        labels = [name for name in dict.fromkeys(rows["label"]) if name]
        if len(labels) > 1 and len(self.spec.classes) != 2:
            raise CohortError(
                f"patient {rows['patient_id'].iloc[0]!r} has slides of the classes "
                f"{shorten(labels)}: only of two classes one is that of the patient; give a table "
                "with one label per patient"
            )
        return {"label": self.spec.classes[-1] if len(labels) > 1 else next(iter(labels), "")}

    @override
    def losses(self, outputs: "Tensor", targets: "Tensor", weights: "Tensor") -> "Tensor":
        from torch.nn.functional import cross_entropy

        return weights[targets] * cross_entropy(outputs, targets, reduction="none")

    @override
    def weights(self, setting: ClassWeights, targets: NDArray[Any]) -> NDArray[np.float32]:
        """Weight of each class (C,), mean 1 over the training slides."""
        names = self.spec.classes
        counts = np.bincount(targets[targets >= 0], minlength=len(names)).astype(np.float32)
        if setting == "none" or not len(targets):
            return np.ones(len(names), np.float32)
        if setting == "balanced":
            return np.asarray(counts.sum() / (len(names) * counts.clip(1)), np.float32)
        given = np.asarray(weights_of(setting, names, "classes"), np.float32)
        return np.asarray(given * counts.sum() / (given * counts).sum(), np.float32)

    @override
    def scores(self, outputs: "Tensor") -> "Tensor":
        return outputs.float().softmax(-1)

    @override
    def metrics(self) -> "Mapping[str, Metric]":
        from histotransfer_pl.analysis.metrics import METRICS

        return METRICS

    @property
    @override
    def titles(self) -> Mapping[str, str]:
        return _TITLES

    @override
    def compare(self, first: "Predictions", second: "Predictions") -> "Comparison":
        """DeLong's test by patients where there are two classes, else as every outcome."""
        from histotransfer_pl.analysis.compare import delong

        two = len(self.spec.classes) == 2
        return delong(first, second) if two else super().compare(first, second)

    @override
    def cells(self, row: NDArray[np.float64]) -> dict[str, Any]:
        return {"predicted": self.decide(row), **super().cells(row)}

    @override
    def decide(self, row: NDArray[np.float64]) -> str:
        return self.spec.classes[int(row.argmax())]

    @override
    def in_words(self, row: NDArray[np.float64]) -> str:
        return f"{self.decide(row)} ({100 * row.max():.1f} %)"


@dataclass(frozen=True)
class OrderedClasses(Classes):
    """One of several classes with an order, lowest first."""

    task: ClassVar[TaskKind] = "ordinal"
    watched: ClassVar[str] = "quadratic_kappa"
    chance: ClassVar[float] = 0.0

    @classmethod
    @override
    def describe(
        cls, rows: pd.DataFrame, columns: Sequence[str], positive: str | None, order: Sequence[str]
    ) -> TargetSpec:
        classes = _in_order(rows, columns[0], order)
        if not order and not all(name.lstrip("-").isdigit() for name in classes):
            raise ConfigError(
                f"the order of {', '.join(classes)} is not known: give data.classes, lowest first"
            )
        if len(classes) < 3:
            raise SplitError(
                f"column {columns[0]} has the classes {shorten(classes)}; an order needs at least "
                "three: take the task classification"
            )
        return TargetSpec(columns[0], tuple(classes), task=cls.task)

    @override
    def of_patient(self, rows: pd.DataFrame) -> dict[str, Any]:
        """The highest class that any slide has."""
        return {"label": self.spec.classes[best] if (best := self.encode(rows).max()) >= 0 else ""}

    @property
    @override
    def output_names(self) -> tuple[str, ...]:
        return tuple(f"stops at {name}" for name in self.spec.classes[:-1])

    @override
    def losses(self, outputs: "Tensor", targets: "Tensor", weights: "Tensor") -> "Tensor":
        from histotransfer_pl.models.losses import ordinal_loss

        return weights[targets] * ordinal_loss(outputs, targets)

    @override
    def scores(self, outputs: "Tensor") -> "Tensor":
        from histotransfer_pl.models.losses import ordinal_probabilities

        return ordinal_probabilities(outputs.float())

    @override
    def metrics(self) -> "Mapping[str, Metric]":
        from histotransfer_pl.analysis.values import class_distance, quadratic_kappa

        own = {"quadratic_kappa": quadratic_kappa, "class_distance": class_distance}
        return {**own, **super().metrics()}

    @property
    @override
    def titles(self) -> Mapping[str, str]:
        own = {"quadratic_kappa": "Quadratic kappa", "class_distance": "Classes off, mean"}
        return {**own, **_TITLES}


def weights_of(setting: list[float] | str, names: Sequence[str], what: str) -> list[float]:
    """One weight per class or label."""
    if isinstance(setting, str) or len(setting) != len(names):
        raise ConfigError(
            f"model.class_weights has {len(setting)} numbers for {len(names)} {what}: "
            f"{', '.join(names)}"
        )
    return setting


def _in_order(rows: pd.DataFrame, column: str, order: Sequence[str]) -> list[str]:
    """The classes of a table, as the user ordered them or as usual."""
    found = sort_classes(rows["label"].unique().tolist())
    if order and set(order) != set(found):
        raise SplitError(
            f"data.classes is {', '.join(order)}, but column {column} has {', '.join(found)}: "
            "give each class of the table once"
        )
    return list(order) or found
