"""What a target is, from the columns of a table to the metrics of its predictions.

One subclass per kind of target, and nothing else in the package asks which kind it is. Class
methods know the columns of a table before anything is learnt. An instance holds a `TargetSpec`,
complete with what the training part taught (scale, times of events), and serves every module with
a head: the head gives O numbers per slide and knows nothing of what they mean.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histotransfer_pl.errors import CohortError, ConfigError, shorten
from histotransfer_pl.records.run import TargetSpec, TaskKind

if TYPE_CHECKING:
    from torch import Tensor

    from histotransfer_pl.analysis.compare import Comparison
    from histotransfer_pl.analysis.metrics import Metric
    from histotransfer_pl.analysis.predictions import Predictions

ClassWeights = Literal["none", "balanced"] | list[float]


@dataclass(frozen=True)
class Outcome(ABC):
    """A kind of target.

    Attributes:
        spec: The target; travels in checkpoint, run record and model file.
    """

    spec: TargetSpec

    task: ClassVar[TaskKind]
    losses_known: ClassVar[tuple[str, ...]] = ("",)
    """Names of the losses that a user may choose, the usual one first."""
    watched: ClassVar[str]
    """Metric by which an epoch is chosen and arms are ranked; more is better."""
    chance: ClassVar[float] = 0.5
    """Its value where nothing was learnt."""
    group: ClassVar[str] = "class"
    """What folds are balanced by, in words."""
    per_patch: ClassVar[bool] = True
    """Whether the loss of a patch against the target of its slide has a meaning."""

    # The table, before anything is learnt.

    @classmethod
    @abstractmethod
    def truth(cls, columns: Sequence[str]) -> list[str]:
        """Names that the true targets have in joined tables and in tables of predictions."""

    @classmethod
    @abstractmethod
    def read(cls, table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
        """Targets of the rows of a table.

        Args:
            table: The table, with a column ``slide_id``.
            columns: Its target columns.

        Returns:
            The columns of ``truth``, and ``label``: a word by which folds are balanced, empty
            where the target is unknown.

        Raises:
            CohortError: Another number of columns, or values that are none of this kind.
        """

    @classmethod
    @abstractmethod
    def describe(
        cls, rows: pd.DataFrame, columns: Sequence[str], positive: str | None, order: Sequence[str]
    ) -> TargetSpec:
        """What is predicted, from the labelled slides.

        Args:
            rows: Labelled slides, with the columns that ``read`` made.
            columns: Target columns of the table.
            positive: The positive one of two classes, if the user named it.
            order: The classes in the order that the user gave; empty for the usual one.

        Raises:
            CohortError: Nothing in it can be told apart.
        """

    @classmethod
    def strata(cls, rows: pd.DataFrame, n_folds: int) -> "pd.Series[str]":
        """A word per labelled slide; folds hold equal shares of each."""
        del n_folds
        return rows["label"]

    @classmethod
    def against_sites(cls, rows: pd.DataFrame) -> pd.Series:
        """What may depend on the site: words, or numbers."""
        return rows["label"]

    @classmethod
    @abstractmethod
    def lacks(cls, part: pd.DataFrame, whole: pd.DataFrame, *, learning: bool) -> str:
        """What a part of the cohort needs to be learnt from or judged by and does not have.

        Returns:
            Such as ``no slide of class 'a'``; empty if it has all.
        """

    @classmethod
    def unlike(cls, rows: pd.DataFrame, trained: TargetSpec) -> str:
        """Why a model of the same task cannot be tested on labelled slides; empty if it can."""
        del rows, trained
        return ""

    @classmethod
    @abstractmethod
    def balance(cls, rows: pd.DataFrame, spec: TargetSpec) -> str:
        """How the targets of some labelled slides are distributed, in a few words."""

    @classmethod
    def learn(cls, spec: TargetSpec, targets: NDArray[Any]) -> TargetSpec:
        """The target with what the training part teaches of it."""
        del targets
        return spec

    @classmethod
    def of_training(cls, spec: TargetSpec, loss: str, targets: NDArray[Any]) -> Self:
        """The outcome for a training part.

        Args:
            spec: The target as the table describes it.
            loss: Name of the loss.
            targets: Targets of the training part, as ``encode`` gives them.
        """
        return cls(cls.learn(replace(spec, loss=loss), targets))

    # Slides and patients.

    def encode(self, rows: pd.DataFrame) -> NDArray[Any]:
        """Targets (S,) or (S, K) as losses and metrics take them; -1 or NaN where unknown."""
        targets = rows[self.truth(self.spec.classes)].to_numpy(np.float64)  # (S, K)
        return targets[:, 0] if targets.shape[1] == 1 else targets

    def of_patient(self, rows: pd.DataFrame) -> dict[str, Any]:
        """``label`` and the columns of ``truth`` for a patient, from the slides it has.

        Raises:
            CohortError: The slides of a patient contradict one another.
        """
        return agreed(rows, self.truth(self.spec.classes))

    # Learning.

    @property
    def output_names(self) -> tuple[str, ...]:
        """What each of the numbers O is that the head gives per slide (or patch)."""
        return self.spec.classes

    @property
    def n_outputs(self) -> int:
        """Numbers O that the head gives per slide."""
        return len(self.output_names)

    @abstractmethod
    def losses(self, outputs: "Tensor", targets: "Tensor", weights: "Tensor") -> "Tensor":
        """Loss of each slide (S,).

        Args:
            outputs: (S, O) what the head gave.
            targets: (S,) or (S, K) as ``encode`` gives them.
            weights: What ``weights`` gave.
        """

    def weights(self, setting: ClassWeights, targets: NDArray[Any]) -> NDArray[np.float32]:
        """Weights of classes or labels (C,) in the loss; (0,) where there are none to weigh.

        Args:
            setting: ``none``, ``balanced``, or one weight per class.
            targets: Targets of the training part; empty where nobody trains.
        """
        del targets
        if setting != "none":
            raise ConfigError(
                f"model.class_weights is {setting}, but {self.spec.column} is no class "
                f"({self.task}): leave it at none"
            )
        return np.empty(0, np.float32)

    @abstractmethod
    def scores(self, outputs: "Tensor") -> "Tensor":
        """What metrics take and tables show, (S,) or (S, K), from outputs (S, O)."""

    # Tables and metrics.

    @property
    def columns(self) -> list[str]:
        """Name of each column of the scores in a table of predictions."""
        return [f"p_{name}" for name in self.spec.classes]

    @abstractmethod
    def metrics(self) -> "Mapping[str, Metric]":
        """Metrics of the scores by name; the watched one first."""

    @property
    @abstractmethod
    def titles(self) -> Mapping[str, str]:
        """Metrics that a page shows, and how it calls them; the watched one first."""

    def compare(self, first: "Predictions", second: "Predictions") -> "Comparison":
        """The watched metric of two models on the same slides, and the paired test by patients."""
        from histotransfer_pl.analysis.compare import paired_test

        return paired_test(first, second, self.metrics()[self.watched])

    def from_columns(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores as the metrics take them from the columns (S, K) of a table."""
        return values[:, 0] if self.n_outputs == 1 else values

    def from_training(self, scores: NDArray[np.float64], other: "Outcome") -> NDArray[np.float64]:
        """Scores of another training as this one would give them, where they have its own scale."""
        del other
        return scores

    def to_columns(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """Columns (S, K) of a table from scores."""
        return np.asarray(scores, np.float64).reshape(len(scores), len(self.columns))

    def decide(self, row: NDArray[np.float64]) -> str | None:
        """The class that a row (K,) of the columns names; None where there is none to name."""
        del row
        return None

    def cells(self, row: NDArray[np.float64]) -> dict[str, Any]:
        """Cells of a table for one slide, from its row (K,) of the columns."""
        return {name: float(value) for name, value in zip(self.columns, row, strict=True)}

    def truth_in_words(self, row: pd.Series) -> str:
        """What is known of a slide, from its row of a table of predictions."""
        (name,) = self.truth([self.spec.column])
        value = row[name]
        return f"{self.spec.column} {value if isinstance(value, str) else format(value, '.4g')}"

    @abstractmethod
    def in_words(self, row: NDArray[np.float64]) -> str:
        """What was predicted for a slide, from its row (K,) of the columns."""


def require_columns_of(kind: type[Outcome], columns: Sequence[str], count: int, what: str) -> None:
    """Refuse another number of target columns."""
    if len(columns) != count:
        raise CohortError(
            f"data.target is {', '.join(columns)}; {kind.task} needs {what} as data.target"
        )


def read_numbers(table: pd.DataFrame, column: str, need: str) -> "pd.Series[float]":
    """A column as numbers, NaN where it is empty.

    Args:
        table: With ``slide_id``.
        column: The column.
        need: What is expected, for the message.

    Raises:
        CohortError: Words; it names the first and its slide.
    """
    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    refuse_values(table, column, (numbers.isna() & table[column].notna()) | np.isinf(numbers), need)
    return numbers


def refuse_values(table: pd.DataFrame, column: str, wrong: "pd.Series[bool]", need: str) -> None:
    """Refuse the values of a column that are wrong."""
    if wrong.any():
        first = table[wrong].iloc[0]
        raise CohortError(
            f"column {column} holds {str(first[column])!r} (slide {first['slide_id']!r}): {need}"
        )


def agreed(rows: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """The one value that the known slides of a patient have in each column."""
    known = rows[rows["label"] != ""]
    if known.empty:
        known = rows.head(1)
    for name in names:
        values = known[name].dropna().unique().tolist()
        if len(values) > 1:
            raise CohortError(
                f"patient {known['patient_id'].iloc[0]!r} has several values of {name}: "
                f"{shorten([f'{value:g}' for value in values])}; a patient has one, so give all of "
                "its slides the same or leave some empty"
            )
    return {name: known[name].iloc[0] for name in ("label", *names)}
