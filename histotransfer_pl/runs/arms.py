"""Arms: the runs that differ in fold and seed only, pooled for statistics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histotransfer_pl.analysis.compare import Comparison
from histotransfer_pl.analysis.metrics import Metric, evaluate
from histotransfer_pl.analysis.predictions import Predictions
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.runs.predictions import PredictionTable
from histotransfer_pl.runs.run import ArmKey, Cell, Run, Task, read_run
from histotransfer_pl.runs.study import PlannedRun


@dataclass(frozen=True)
class MissingRun:
    """A run that gives no predictions, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Arm:
    """One way to read the slides, evaluated in every fold and seed."""

    key: ArmKey
    task: Task
    cells: Mapping[Cell, Run] = field(repr=False)
    words: Mapping[str, str] = field(default_factory=dict)
    _made: dict[Any, Predictions] = field(default_factory=dict, init=False, repr=False)

    @property
    def label(self) -> str:
        """How the page calls it."""
        return " · ".join(self.words.values())

    @property
    def runs(self) -> list[Run]:
        """The runs in order of split, fold and seed."""
        return [self.cells[cell] for cell in sorted(self.cells)]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, in the order of the scores."""
        return self.runs[0].classes

    @property
    def outcome(self) -> Outcome:
        """What is predicted, as the first run knows it."""
        return self.runs[0].tested.outcome

    @property
    def watched(self) -> Metric:
        """The metric by which arms of this task are ranked."""
        return self.outcome.metrics()[self.outcome.watched]

    @property
    def title(self) -> str:
        """How a page calls that metric."""
        return self.outcome.titles[self.outcome.watched]

    @property
    def chance(self) -> float:
        """Its value where nothing was learnt."""
        return self.outcome.chance

    @cached_property
    def pooled(self) -> bool:
        """Whether scores of different trainings must be ranked together.

        They have no common scale, so slides are ranked within each training. Where the test part
        of a training holds one class only, as when single blocks are left out, that gives no
        pairs, and the trainings of a seed are ranked as one.
        """
        whole = pd.concat([run.table for run in self.runs])
        kind = type(self.outcome)
        return any(kind.lacks(run.table, whole, learning=False) for run in self.runs)

    def predictions(
        self, cells: Iterable[Cell] | None = None, *, patients: bool = False
    ) -> Predictions:
        """Test predictions of these cells (all by default), each slide once per cell it is in.

        Each training is a fold of its own: ranking metrics compare within it (but see
        ``pooled``). With several seeds a slide comes once for each, and every metric is the mean
        over seeds, while patients stay the unit that is resampled.

        Raises:
            AnalysisError: The runs have other classes, or no cell is left.
        """
        chosen = sorted(self.cells if cells is None else cells)
        known = (tuple(chosen), patients)
        if known not in self._made:
            self._made[known] = self._predictions(chosen, patients=patients)
        return self._made[known]

    def _predictions(self, chosen: Sequence[Cell], *, patients: bool) -> Predictions:
        if not chosen:
            raise AnalysisError("no fold and seed that both were tested on")
        runs = [self.cells[cell] for cell in chosen]
        outcome = runs[0].tested.outcome
        first = outcome.spec
        other = next((run for run in runs if run.classes != first.classes), None)
        if other is not None:
            raise AnalysisError(
                f"{runs[0].name} has the classes {list(first.classes)}, {other.name} "
                f"{list(other.classes)}: compare runs of the same target"
            )
        _refuse_shared_patients(runs)
        tables = [run.tested.of_patients() if patients else run.tested for run in runs]
        groups = [(c.split, c.seed) if self.pooled else c for c in chosen]
        several = len({(c.split, c.seed) for c in chosen}) > 1
        return Predictions(
            np.concatenate(
                [
                    _ids(table, cell if several else None)
                    for table, cell in zip(tables, chosen, strict=True)
                ]
            ),
            np.concatenate([table.frame["patient_id"].to_numpy(str) for table in tables]),
            np.concatenate([table.targets for table in tables]),
            np.concatenate(
                [outcome.from_training(table.scores, table.outcome) for table in tables]
            ),
            np.repeat([groups.index(g) for g in groups], [len(table.frame) for table in tables]),
            task=first.task,
        )

    def n_slides(self) -> int:
        """Distinct slides tested."""
        return len({s for run in self.runs for s in run.table["slide_id"]})

    def n_patients(self) -> int:
        """Distinct patients tested."""
        return len({p for run in self.runs for p in run.table["patient_id"]})

    def cell_scores(self) -> dict[Cell, float]:
        """The watched metric of each training; those it is undefined for are left out."""
        metric = self.watched
        values = {c: float(evaluate(metric, self.predictions([c]))[0]) for c in sorted(self.cells)}
        return {cell: value for cell, value in values.items() if np.isfinite(value)}


def _refuse_shared_patients(runs: Sequence[Run]) -> None:
    owners: dict[tuple[str, int, str], Run] = {}
    for run in runs:
        for patient in run.table["patient_id"].unique():
            first = owners.setdefault((run.cell.split, run.cell.seed, patient), run)
            if first is not run:
                raise AnalysisError(
                    f"patient {patient!r} is in the test folds of {first.name} and of {run.name}: "
                    "the cohort changed between the folds; fit them again"
                )


def _ids(table: PredictionTable, cell: Cell | None) -> NDArray[np.str_]:
    ids = table.frame["slide_id"].to_numpy(str)
    return ids if cell is None else np.char.add(ids, f" (seed {cell.seed}, {cell.split})")


def read_runs(planned: Sequence[PlannedRun]) -> tuple[list[Run], list[MissingRun]]:
    """Read what is there; the rest, with the reason."""
    runs: list[Run] = []
    missing: list[MissingRun] = []
    for item in planned:
        try:
            runs.append(read_run(item))
        except AnalysisError as error:
            missing.append(MissingRun(item.name, str(error)))
    return runs, missing


def group_arms(runs: Sequence[Run]) -> tuple[list[Arm], list[MissingRun]]:
    """Arms in order of their first run, and runs that would be there twice.

    Runs that agree in encoder, depth, head and variant and yet were trained with other settings
    are arms of their own, each called after its first run.
    """
    cells: dict[tuple[Task, ArmKey], dict[Cell, Run]] = {}
    twice: list[MissingRun] = []
    keys = {run: key for alike in _group_repeats(runs) for run, key in _kept_apart(alike)}
    for run in runs:
        own = cells.setdefault((run.task, keys[run]), {})
        first = own.setdefault(run.cell, run)
        if first is not run:
            reason = f"left out: same arm, fold {run.cell.fold} and seed as {first.name}"
            twice.append(MissingRun(run.name, reason))
    varied = _varied([key for _, key in cells])
    arms = [Arm(key, task, own, describe(key, varied)) for (task, key), own in cells.items()]
    return arms, twice


def other_settings(runs: Sequence[Run]) -> list[str]:
    """A line for each group of runs that are arms of their own for their settings only."""
    lines = []
    for alike in _group_repeats(runs):
        all_settings = [run.settings for run in alike]
        names = sorted({name for settings in all_settings for name in settings})
        apart = [n for n in names if len({settings.get(n) for settings in all_settings}) > 1]
        if apart:
            shown = ", ".join(apart[:_SHOWN]) + (", ..." if len(apart) > _SHOWN else "")
            lines.append(
                f"{alike[0].name} and {len(alike) - 1} more of the same encoder, depth and head "
                f"were not trained alike ({shown} differ), so they are not pooled: arms of their "
                "own, called after the first run of each."
            )
    return lines


_SHOWN = 5


def _group_repeats(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of one task, encoder, depth, head and variant, together."""
    groups: dict[tuple[Task, ArmKey], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.task, run.arm), []).append(run)
    return list(groups.values())


def _kept_apart(alike: Sequence[Run]) -> list[tuple[Run, ArmKey]]:
    """Each run with its arm, in which the settings are said if those of the runs differ."""
    first: dict[tuple[tuple[str, str], ...], str] = {}
    for run in alike:
        first.setdefault(_settings(run), run.name)
    several = len(first) > 1
    return [
        (run, run.arm._replace(settings=first[_settings(run)] if several else "")) for run in alike
    ]


def _settings(run: Run) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(run.settings.items()))


def describe(key: ArmKey, varied: Iterable[str]) -> dict[str, str]:
    """Factor to word: the encoder, and the other factors that the study varies."""
    words = {name: str(getattr(key, name)) for name in ("encoder", *varied) if getattr(key, name)}
    if "variant" in words:
        words["variant"] = key.variant.label
    if "settings" in words:
        words["settings"] = f"settings of {key.settings}"
    return {**words, "encoder": encoder_label(key)}


def encoder_label(key: ArmKey) -> str:
    """An encoder as the page calls it."""
    return f"{key.encoder} (random weights)" if key.weights_kind == "random" else key.encoder


def _varied(keys: Sequence[ArmKey]) -> list[str]:
    """Every factor that takes more than one value; weights are told by the encoder's label."""
    names = [n for n in ArmKey._fields if len({getattr(key, n) for key in keys}) > 1]
    return [n for n in names if n not in ("weights", "weights_kind")]


def compare_arms(first: Arm, second: Arm) -> Comparison:
    """The watched metric of two arms on the trainings that both have, and the paired test.

    Raises:
        AnalysisError: They share no training, or were tested on other slides.
    """
    cells = set(first.cells) & set(second.cells)
    one, other = first.predictions(cells), second.predictions(cells)
    return first.outcome.compare(one, other)


def tasks_of(arms: Sequence[Arm]) -> list[list[Arm]]:
    """Arms that predict the same thing, together."""
    groups: dict[Task, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm.task, []).append(arm)
    return list(groups.values())
