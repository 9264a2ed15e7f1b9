"""Which slides of the cohort can be used, and why the others cannot."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from histotransfer_pl.data.cohort import (
    read_cohort,
    require_columns,
    require_patients,
    shorten,
)
from histotransfer_pl.errors import CohortError, StoreMismatchError
from histotransfer_pl.store.feature_store import FeatureStore


@dataclass(frozen=True)
class Join:
    """A cohort joined with a store.

    Attributes:
        slides: One row a usable slide: ``slide_id``, ``patient_id``, ``label`` (a word, or empty
            where unknown), and the fold column if any; sorted by ``slide_id``.
        in_table: Rows of the cohort table.
        without_label: Slides without a label.
        without_features: Slides that the store does not have in this encoder and depth.
        without_tissue: Slides in the store without any patch.
        not_in_table: Slides of the store that the table does not name.
    """

    slides: pd.DataFrame
    in_table: int
    without_label: list[str]
    without_features: list[str]
    without_tissue: list[str]
    not_in_table: list[str]

    @property
    def labelled(self) -> pd.DataFrame:
        """The usable slides with a label."""
        return self.slides[self.slides["label"] != ""]

    @property
    def classes(self) -> list[str]:
        """The classes in order: numbers by value, words by alphabet."""
        return sort_classes(self.labelled["label"].unique().tolist())

    def describe(self) -> str:
        """What was joined, in a few lines."""
        lines = [
            f"cohort: {self.in_table} slides in the table, "
            f"{self.in_table - len(self.without_label)} labelled, "
            f"{self.in_table - len(self.without_features) - len(self.without_tissue)} with "
            f"features, {len(self.labelled)} used "
            f"({self.labelled['patient_id'].nunique()} patients)"
        ]
        for reason, names in (
            ("without label", self.without_label),
            ("without features", self.without_features),
            ("without tissue", self.without_tissue),
            ("in the store but not in the table", self.not_in_table),
        ):
            if names:
                lines.append(f"  {len(names)} {reason}: {shorten(names)}")
        return "\n".join(lines)


def sort_classes(names: list[str]) -> list[str]:
    """Classes in a stable order: by value when all are numbers, else by alphabet."""
    if all(name.lstrip("-").isdigit() for name in names):
        return sorted(names, key=int)
    return sorted(names)


def join_cohort(
    cohort: Path,
    store: FeatureStore,
    array: str,
    target: str,
    columns: tuple[str, ...] = (),
    *,
    strict: bool = True,
) -> Join:
    """Join a cohort table with the features of a store.

    Args:
        cohort: The table.
        store: The store.
        array: Which features, as ``features/<encoder>/<depth>``.
        target: Column that holds the class.
        columns: Further columns to keep.
        strict: Refuse labelled slides whose features are missing.

    Raises:
        CohortError: If a column is missing, nothing can be joined, or (``strict``) labelled
            slides have no features.
    """
    table = read_cohort(cohort)
    require_columns(table, ["patient_id", target, *columns], cohort)
    require_patients(table, cohort)
    label = clean_labels(table[target])
    stored = set(store.slide_ids())
    known = [slide_id for slide_id in table["slide_id"] if slide_id in stored]
    empty = {slide_id for slide_id in known if store.slide(slide_id).n_patches == 0}
    usable = {s for s in known if s not in empty and store.slide(s).has(array)}
    frame = table.assign(label=label)[["slide_id", "patient_id", "label", *columns]]
    join = Join(
        slides=frame[frame["slide_id"].isin(usable)].sort_values("slide_id", ignore_index=True),
        in_table=len(table),
        without_label=table.loc[label == "", "slide_id"].tolist(),
        without_features=[s for s in table["slide_id"] if s not in usable and s not in empty],
        without_tissue=sorted(empty),
        not_in_table=sorted(stored - set(table["slide_id"])),
    )
    _check(join, frame, store, array, known, strict=strict)
    return join


def require_array(store: FeatureStore, array: str, slide_ids: list[str]) -> None:
    """Raise a StoreMismatchError listing what the store has when none of the slides has it."""
    slides = [store.slide(slide_id) for slide_id in slide_ids]
    if any(slide.has(array) for slide in slides):
        return
    found = sorted({name for slide in slides[:20] for name in slide.arrays()})
    features = [name for name in found if name.startswith("features/")]
    raise StoreMismatchError(
        f"{store.path} has no {array}; it has {', '.join(features) or 'no features yet'}; "
        "choose one of these, or run extract"
    )


def clean_labels(values: pd.Series) -> "pd.Series[str]":
    """Labels as words: 1.0, which pandas makes of 1 beside an empty field, is the class 1."""
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    return values.astype("string").str.strip().fillna("").astype(str)


def _check(
    join: Join,
    frame: pd.DataFrame,
    store: FeatureStore,
    array: str,
    known: list[str],
    *,
    strict: bool,
) -> None:
    if not known:
        raise CohortError(
            f"none of the {join.in_table} slides of the table is in {store.path}; the table has "
            f"{shorten(frame['slide_id'].tolist())}, the store {shorten(join.not_in_table)}"
        )
    require_array(store, array, [s for s in known if s not in join.without_tissue] or known)
    labelled = set(frame.loc[frame["label"] != "", "slide_id"])
    lost = [s for s in join.without_features if s in labelled]
    if strict and lost:
        raise CohortError(
            f"{len(lost)} labelled slides have no {array} in {store.path}: {shorten(lost)}; run "
            "extract to its end, or go on without them with --data.strict false"
        )
    if join.labelled.empty:
        raise CohortError("no slide has both a label and features")
