"""A number, learnt on the scale of the training part, told in its own unit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import override

from histotransfer_pl.errors import SplitError
from histotransfer_pl.outcomes.outcome import Outcome, read_numbers, require_columns_of
from histotransfer_pl.records.run import TargetSpec, TaskKind

if TYPE_CHECKING:
    from torch import Tensor

    from histotransfer_pl.analysis.metrics import Metric

_CORNER = 1.0
"""Of Huber's loss, in deviations of the training targets."""
_MOST_QUANTILES = 5


@dataclass(frozen=True)
class Value(Outcome):
    """A number; ``mse`` is the squared error, ``huber`` bends to a line beyond one deviation."""

    task: ClassVar[TaskKind] = "regression"
    losses_known: ClassVar[tuple[str, ...]] = ("mse", "huber")
    watched: ClassVar[str] = "r2"
    chance: ClassVar[float] = 0.0
    group: ClassVar[str] = "quantile"

    @classmethod
    @override
    def truth(cls, columns: Sequence[str]) -> list[str]:
        return ["value"]

    @classmethod
    @override
    def read(cls, table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
        require_columns_of(cls, columns, 1, "one column of numbers")
        values = read_numbers(table, columns[0], "a regression needs numbers, or an empty field")
        return pd.DataFrame({"value": values, "label": np.where(values.isna(), "", "known")})

    @classmethod
    @override
    def describe(
        cls, rows: pd.DataFrame, columns: Sequence[str], positive: str | None, order: Sequence[str]
    ) -> TargetSpec:
        if rows["value"].nunique() < 2:
            raise SplitError(
                f"all {len(rows)} values of column {columns[0]} are {rows['value'].iloc[0]:g}: "
                "there is nothing to learn"
            )
        return TargetSpec(columns[0], task=cls.task)

    @classmethod
    @override
    def strata(cls, rows: pd.DataFrame, n_folds: int) -> "pd.Series[str]":
        """The quantile of each value; each keeps at least as many patients as there are folds."""
        for count in range(_MOST_QUANTILES, 1, -1):
            place = pd.qcut(rows["value"], count, labels=False, duplicates="drop")
            if rows["patient_id"].groupby(place).nunique().min() >= n_folds:
                return "q" + (place + 1).astype(int).astype(str)
        return rows["label"]

    @classmethod
    @override
    def against_sites(cls, rows: pd.DataFrame) -> pd.Series:
        return rows["value"]

    @classmethod
    @override
    def lacks(cls, part: pd.DataFrame, whole: pd.DataFrame, *, learning: bool) -> str:
        return "no two slides of different values" if part["value"].nunique() < 2 else ""

    @classmethod
    @override
    def balance(cls, rows: pd.DataFrame, spec: TargetSpec) -> str:
        values = rows["value"]
        return f"mean {values.mean():.4g}, from {values.min():.4g} to {values.max():.4g}"

    @classmethod
    @override
    def learn(cls, spec: TargetSpec, targets: NDArray[Any]) -> TargetSpec:
        from histotransfer_pl.analysis.values import target_scale

        return replace(spec, scale=target_scale(targets[np.isfinite(targets)]))

    @property
    @override
    def output_names(self) -> tuple[str, ...]:
        return ("value",)

    @override
    def losses(self, outputs: "Tensor", targets: "Tensor", weights: "Tensor") -> "Tensor":
        from histotransfer_pl.models.losses import regression_loss

        mean, deviation = self.spec.scale
        scaled = ((targets - mean) / deviation).to(outputs.dtype)  # (S,)
        corner = _CORNER if self.spec.loss == "huber" else None
        return regression_loss(outputs[:, 0], scaled, corner)

    @override
    def scores(self, outputs: "Tensor") -> "Tensor":
        mean, deviation = self.spec.scale
        return outputs[:, 0].float() * deviation + mean

    @property
    @override
    def columns(self) -> list[str]:
        return ["predicted"]

    @override
    def metrics(self) -> "Mapping[str, Metric]":
        from histotransfer_pl.analysis.values import mean_absolute_error, r2, spearman

        return {"r2": r2, "spearman": spearman, "mean_absolute_error": mean_absolute_error}

    @property
    @override
    def titles(self) -> Mapping[str, str]:
        return {"r2": "R²", "spearman": "Spearman", "mean_absolute_error": "Mean absolute error"}

    @override
    def in_words(self, row: NDArray[np.float64]) -> str:
        return f"{self.spec.column} {row[0]:.4g}"
