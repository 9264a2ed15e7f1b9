"""Time to an event, which some patients have not had when observation ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import override

from histotransfer_pl.errors import SplitError
from histotransfer_pl.outcomes.outcome import (
    Outcome,
    read_numbers,
    refuse_values,
    require_columns_of,
)
from histotransfer_pl.records.run import TargetSpec, TaskKind

if TYPE_CHECKING:
    from torch import Tensor

    from histotransfer_pl.analysis.metrics import Metric

_TITLES = {
    "c_index": "C-index",
    "time_dependent_auc": "Time-dependent AUC",
    "integrated_brier": "Integrated Brier score",
}


@dataclass(frozen=True)
class Survival(Outcome):
    """What both losses share: the columns ``time`` and ``event``, and patients at risk."""

    task: ClassVar[TaskKind] = "survival"
    losses_known: ClassVar[tuple[str, ...]] = ("cox", "hazard")
    watched: ClassVar[str] = "c_index"
    group: ClassVar[str] = "group"
    per_patch: ClassVar[bool] = False

    @classmethod
    @override
    def truth(cls, columns: Sequence[str]) -> list[str]:
        return ["time", "event"]

    @classmethod
    @override
    def read(cls, table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
        require_columns_of(
            cls, columns, 2, "the columns of time and of event, such as [time, event],"
        )
        time, event = columns
        times = read_numbers(table, time, "a time is a number above 0, or empty")
        events = read_numbers(table, event, "1 where the event was seen, 0 elsewhere, or empty")
        early, odd = times <= 0, ~events.isin([0, 1]) & events.notna()
        need = "times count from the start of observation and are above 0"
        refuse_values(table, time, early, need)
        refuse_values(table, event, odd, "expected 1 where the event was seen, 0 elsewhere")
        known = times.notna() & events.notna()
        words = events.map({1.0: "event", 0.0: "no event"}).where(known, "")
        return pd.DataFrame({"time": times, "event": events, "label": words})

    @classmethod
    @override
    def describe(
        cls, rows: pd.DataFrame, columns: Sequence[str], positive: str | None, order: Sequence[str]
    ) -> TargetSpec:
        if not (rows["event"] == 1).any():
            raise SplitError(
                f"none of {len(rows)} slides has an event in column {columns[1]}: there is nothing "
                "to learn"
            )
        return TargetSpec(", ".join(columns), task=cls.task)

    @classmethod
    @override
    def lacks(cls, part: pd.DataFrame, whole: pd.DataFrame, *, learning: bool) -> str:
        return "" if (part["event"] == 1).any() else "no slide with an event"

    @classmethod
    @override
    def balance(cls, rows: pd.DataFrame, spec: TargetSpec) -> str:
        events = int((rows["event"] == 1).sum())
        return f"{events} with the event, median time {rows['time'].median():.4g}"

    @classmethod
    @override
    def learn(cls, spec: TargetSpec, targets: NDArray[Any]) -> TargetSpec:
        from histotransfer_pl.analysis.survival import horizons

        return replace(spec, times=horizons(targets[np.isfinite(targets).all(1)]))

    @property
    @override
    def titles(self) -> Mapping[str, str]:
        return {name: _TITLES[name] for name in self.metrics()}

    @override
    def truth_in_words(self, row: pd.Series) -> str:
        time, _, event = self.spec.column.partition(", ")
        return f"{time} {row['time']:.4g}, {event} {'yes' if row['event'] == 1 else 'no'}"


@dataclass(frozen=True)
class Risk(Survival):
    """Proportional hazards (Cox): one number per slide.

    The partial likelihood compares the slides of a step in training, and all slides of the part in
    evaluation; a step of one slide says nothing, give ``data.batch_size`` 8 or more.
    """

    @property
    @override
    def output_names(self) -> tuple[str, ...]:
        return ("risk",)

    @override
    def losses(self, outputs: "Tensor", targets: "Tensor", weights: "Tensor") -> "Tensor":
        from histotransfer_pl.models.losses import cox_loss

        return cox_loss(outputs[:, 0], targets[:, 0], targets[:, 1]).to(outputs.dtype)

    @override
    def scores(self, outputs: "Tensor") -> "Tensor":
        return outputs[:, 0].float()

    @property
    @override
    def columns(self) -> list[str]:
        return ["risk"]

    @override
    def metrics(self) -> "Mapping[str, Metric]":
        from histotransfer_pl.analysis.survival import c_index, time_dependent_auc

        return {"c_index": c_index, "time_dependent_auc": time_dependent_auc(self.spec.times)}

    @override
    def in_words(self, row: NDArray[np.float64]) -> str:
        return f"log hazard ratio {row[0]:+.2f}"


@dataclass(frozen=True)
class Hazards(Survival):
    """Hazard of each interval of time; one slide per step is enough.

    Intervals end at ``spec.times``; the last one is open.
    """

    @property
    @override
    def output_names(self) -> tuple[str, ...]:
        return (*(f"hazard until {time:g}" for time in self.spec.times), "hazard later")

    @override
    def losses(self, outputs: "Tensor", targets: "Tensor", weights: "Tensor") -> "Tensor":
        import torch

        from histotransfer_pl.models.losses import hazard_loss

        # an event at the end of an interval belongs to it
        ends = targets.new_tensor(self.spec.times)
        place = torch.searchsorted(ends, targets[:, 0].contiguous())  # (S,)
        return hazard_loss(outputs, place, targets[:, 1] == 1)

    @override
    def scores(self, outputs: "Tensor") -> "Tensor":
        from histotransfer_pl.models.losses import hazard_survival

        return hazard_survival(outputs.float())[:, :-1]

    @property
    @override
    def columns(self) -> list[str]:
        return [f"survival_{time:.6g}" for time in self.spec.times]

    @override
    def from_training(self, scores: NDArray[np.float64], other: Outcome) -> NDArray[np.float64]:
        """Survival at these times, between those of the other training on a straight line."""
        if other.spec.times == self.spec.times:
            return scores
        known = (0.0, *other.spec.times)
        rows = [np.interp(self.spec.times, known, (1.0, *row)) for row in scores]
        return np.array(rows)  # (S, T)

    @override
    def metrics(self) -> "Mapping[str, Metric]":
        from histotransfer_pl.analysis.survival import (
            c_index,
            integrated_brier,
            of_survival,
            time_dependent_auc,
        )

        times = self.spec.times
        found = {
            "c_index": of_survival(c_index),
            "time_dependent_auc": of_survival(time_dependent_auc(times)),
        }
        if len(times) > 1:
            found["integrated_brier"] = integrated_brier(times)
        return found

    @override
    def in_words(self, row: NDArray[np.float64]) -> str:
        middle = len(row) // 2
        return f"survival to {self.spec.times[middle]:.4g}: {100 * row[middle]:.0f} %"
