"""Every kind of target by its name."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.outcomes.classes import Classes, OrderedClasses
from histotransfer_pl.outcomes.labels import Labels
from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.outcomes.survival import Hazards, Risk
from histotransfer_pl.outcomes.value import Value
from histotransfer_pl.records.run import TargetSpec, TaskKind

_KINDS: Mapping[tuple[str, str], type[Outcome]] = MappingProxyType(
    {
        ("classification", ""): Classes,
        ("ordinal", ""): OrderedClasses,
        ("multilabel", ""): Labels,
        ("regression", "mse"): Value,
        ("regression", "huber"): Value,
        ("survival", "cox"): Risk,
        ("survival", "hazard"): Hazards,
    }
)


def kind_of(task: TaskKind) -> type[Outcome]:
    """What a kind of target makes of a table; losses differ in nothing of that."""
    return next(kind for (name, _), kind in _KINDS.items() if name == task)


def outcome_of(spec: TargetSpec) -> Outcome:
    """The outcome that a record describes."""
    return _KINDS[spec.task, spec.loss or kind_of(spec.task).losses_known[0]](spec)


def outcome_to_train(spec: TargetSpec, loss: str, targets: NDArray[Any]) -> Outcome:
    """The outcome of a training part.

    Args:
        spec: The target, as the table describes it.
        loss: Name of the loss; ``default`` for the usual one of the task.
        targets: Targets of the training part.
    """
    known = kind_of(spec.task).losses_known
    chosen = known[0] if loss == "default" else loss
    if chosen not in known:
        named = ", ".join(name for name in known if name) or "no other than default"
        raise ConfigError(f"model.loss is {loss}, but the task {spec.task} knows {named}")
    return _KINDS[spec.task, chosen].of_training(spec, chosen, targets)


@dataclass(frozen=True)
class TargetColumns:
    """What a user says of the target."""

    columns: tuple[str, ...]
    task: TaskKind = "classification"
    positive: str | None = None
    order: tuple[str, ...] = ()

    @property
    def kind(self) -> type[Outcome]:
        """What it makes of a table."""
        return kind_of(self.task)

    @property
    def truth(self) -> list[str]:
        """Names of the targets in joined tables."""
        return self.kind.truth(self.columns)

    def read(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the columns of the target and ``label``, empty where it is unknown."""
        found = self.kind.read(table, self.columns)
        return table.assign(**{str(name): found[name] for name in found})

    def describe(self, rows: pd.DataFrame) -> TargetSpec:
        """The target of these labelled slides."""
        return self.kind.describe(rows, self.columns, self.positive, self.order)


def target_of_settings(data: Mapping[str, Any]) -> TargetColumns:
    """The target that the settings of a datamodule name."""
    columns = data["target"]
    return TargetColumns(
        (columns,) if isinstance(columns, str) else tuple(map(str, columns)),
        data.get("task") or "classification",
        data.get("positive"),
        tuple(map(str, data.get("classes") or ())),
    )


def target_columns(target: "str | TargetColumns") -> TargetColumns:
    """A column with classes, unless more is said."""
    return TargetColumns((target,)) if isinstance(target, str) else target
