"""What a run is: its features, target, split and head; its identity is its checkpoint's hash."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.encoder import FeatureSpec
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.records.record import Record

Bag = Literal["slide", "patient"]
SplitBy = Literal["patient", "site"]
TaskKind = Literal["classification", "multilabel", "ordinal", "regression", "survival"]

_ORDERED_PAIRS = (
    ("no", "yes"),
    ("negative", "positive"),
    ("neg", "pos"),
    ("false", "true"),
    ("normal", "tumor"),
    ("normal", "tumour"),
    ("normal", "cancer"),
    ("normal", "carcinoma"),
    ("benign", "malignant"),
    ("wildtype", "mutant"),
    ("wt", "mut"),
    ("-", "+"),
)
"""Pairs of words of which everybody takes the second as positive."""


@dataclass(frozen=True)
class TargetSpec(Record):
    """What is predicted.

    Attributes:
        column: Column of the cohort table; of several columns their names, with commas.
        classes: The classes in the order of the outputs; of two the positive one comes last. With
            several labels their names, with ordered classes the lowest first; else empty.
        positive: Of two classes the one that AUPRC, F1 and sensitivity are about; a patient is
            positive if any of its slides is. None for more than two.
        task: Kind of the target.
        loss: What is minimised, where a task has several losses.
        scale: Of a value: mean and deviation of the training part, on which it is learnt.
        times: Of survival: when it is looked at, from the events of the training part.
    """

    column: str
    classes: tuple[str, ...] = ()
    positive: str | None = None
    task: TaskKind = "classification"
    loss: str = ""
    scale: tuple[float, ...] = ()
    times: tuple[float, ...] = ()


def choose_positive(classes: tuple[str, ...], given: str | None) -> str | None:
    """The positive one of two classes.

    Example:
        >>> choose_positive(("negative", "positive"), None)
        'positive'
    """
    if given is not None and given not in classes:
        raise ConfigError(
            f"data.positive is {given!r}, which is none of the classes {', '.join(classes)}"
        )
    if given is not None or len(classes) != 2:
        return given
    if all(name.lstrip("-").isdigit() for name in classes):
        return max(classes, key=int)
    lowered = {name.lower(): name for name in classes}
    for pair in _ORDERED_PAIRS:
        if set(pair) == set(lowered):
            return lowered[pair[1]]
    raise ConfigError(
        f"of the classes {' and '.join(classes)} it must be said which is the positive one: give "
        f"data.positive, such as --data.positive {classes[1]!r}, and fit.data.positive in a study "
        "(AUPRC, F1 and sensitivity are about it)"
    )


@dataclass(frozen=True)
class SplitSpec(Record):
    """How patients were shared out.

    Attributes:
        fold: The test fold.
        n_folds: Number of folds cut by ``seed``; None with a column.
        seed: Seed of the folds; None with a column.
        column: Column of the table that prescribes the split.
        by: What stays on one side: a patient, or all patients of a site.
    """

    fold: int
    n_folds: int | None = None
    seed: int | None = None
    column: str | None = None
    by: SplitBy = "patient"


def split_spec(
    fold: int, n_folds: int | None, seed: int, column: str | None, by: SplitBy = "patient"
) -> SplitSpec:
    """How patients are shared out, from the settings of a datamodule."""
    if column is not None:
        return SplitSpec(fold, column=column)
    return SplitSpec(fold, n_folds, seed, by=by)


@dataclass(frozen=True)
class ClassSpec(Record):
    """A class and the arguments to make it with."""

    class_path: str
    init_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CovariateSpec(Record):
    """A clinical covariate that the head reads, as the training part knows it.

    Attributes:
        column: Column of the table.
        mean: Of its numbers.
        deviation: Of its numbers.
        categories: Its words, each an input of its own; empty for numbers.
    """

    column: str
    mean: float = 0.0
    deviation: float = 1.0
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class SelectionSpec(Record):
    """The patches of each slide that an encoder was tuned on.

    Attributes:
        name: Name of the selection in the store.
        rule: How patches were chosen.
        k: How many of each slide.
        run: Hash of the stage-1 checkpoint whose attention chose them.
    """

    name: str
    rule: str
    k: int
    run: str = ""


@dataclass(frozen=True)
class RunRecord(Record):
    """What a trained model must know of its training; it stands in every checkpoint.

    Attributes:
        features: What the head reads.
        target: What it predicts.
        head: The head.
        bag: What a bag holds.
        split: How patients were shared out; None where a training script did it.
        train_patients: Patients it was trained on.
        validation_patients: Patients who chose the epoch.
        grid: How slides are cut into patches; None for features without coordinates.
        counts: Slides of each part, for a model card.
        versions: Versions of the programs.
        standardized: Whether the model scales features to mean 0 and deviation 1 first.
        selection: For a tuned run: the patches it was tuned on.
        base: For a tuned run: hash of the stage-1 checkpoint whose head it started from.
        covariates: Clinical covariates that the head reads beside the patches.
    """

    features: FeatureSpec
    target: TargetSpec
    head: ClassSpec
    bag: Bag = "slide"
    split: SplitSpec | None = None
    train_patients: tuple[str, ...] = ()
    validation_patients: tuple[str, ...] = ()
    grid: GridSettings | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    standardized: bool = False
    selection: SelectionSpec | None = None
    base: str = ""
    covariates: tuple[CovariateSpec, ...] = ()
