"""Which slides of the cohort can be used, and why the others cannot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from histotransfer_pl.data.cohort import read_cohort, require_columns, require_patients
from histotransfer_pl.errors import CohortError, StoreMismatchError, shorten
from histotransfer_pl.outcomes.kinds import TargetColumns, target_columns
from histotransfer_pl.outcomes.words import sort_classes
from histotransfer_pl.store.joined import Store


@dataclass(frozen=True)
class Join:
    """A cohort joined with a store.

    Attributes:
        slides: One row per usable slide: ``slide_id``, ``patient_id``, ``label`` (a word, empty
            where the target is unknown), what the target's kind calls its columns, and the further
            columns that were asked for; sorted by ``slide_id``.
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
            f"{len(self.slides)} with features, {len(self.labelled)} labelled with features "
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


def join_cohort(
    cohort: Path,
    store: Store,
    arrays: Sequence[str],
    target: str | TargetColumns,
    columns: Sequence[str] = (),
    *,
    strict: bool = True,
) -> Join:
    """Join a cohort table with the features of a store, to train or to test.

    Args:
        cohort: The table.
        store: The store.
        arrays: Which features, as ``features/<encoder>/<depth>``; a slide needs all of them.
        target: Column that holds the class, or the columns of another target.
        columns: Further columns to keep.
        strict: Refuse labelled slides whose features are missing.

    Raises:
        CohortError: If a column is missing, nothing can be joined, or (``strict``) labelled
            slides have no features.
    """
    asked = target_columns(target)
    table = read_cohort(cohort)
    require_columns(table, ["patient_id", *asked.columns, *columns], cohort)
    require_patients(table, cohort)
    join = _join(asked.read(table), store, arrays, [*asked.truth, *columns])
    unlabelled = set(join.without_label)
    lost = [s for s in join.without_features if s not in unlabelled]
    if strict and lost:
        raise CohortError(
            f"{len(lost)} labelled slides have no {' or '.join(arrays)} in {store.location}: "
            f"{shorten(lost)}; run extract to its end, or go on without them with "
            "--data.strict false"
        )
    if join.labelled.empty:
        raise CohortError(
            f"no slide has both a label and features: column {', '.join(asked.columns)} of "
            f"{cohort} is empty for all of them; predict and apply need no labels"
        )
    return join


def join_unlabelled(
    cohort: Path | None,
    store: Store,
    arrays: Sequence[str],
    target: str | TargetColumns,
    columns: Sequence[str] = (),
) -> Join:
    """Join what is to be predicted; labels and patients are kept where the table knows them.

    Args:
        cohort: A table with ``slide_id``; all slides of the store when None.
        store: The store.
        arrays: Which features; a slide needs all of them.
        target: Column that may hold the class, or columns that may hold another target.
        columns: Further columns to keep.

    Raises:
        CohortError: If nothing can be joined.
    """
    if cohort is None:
        table = pd.DataFrame({"slide_id": store.slide_ids()}, dtype="string")
    else:
        table = read_cohort(cohort)
    asked = target_columns(target)
    # Columns that are not there are empty: a target that nobody knows.
    for column in {*asked.columns} - {*table.columns}:
        table[column] = np.nan
    patient = table["patient_id"].fillna("") if "patient_id" in table else ""
    table = asked.read(table).assign(patient_id=patient)
    if cohort is not None:
        require_columns(table, list(columns), cohort)
    return _join(table, store, arrays, [*asked.truth, *(c for c in columns if c in table)])


def _join(table: pd.DataFrame, store: Store, arrays: Sequence[str], columns: Sequence[str]) -> Join:
    stored = set(store.slide_ids())
    named = table["slide_id"].tolist()  # a walk over the column itself is slow
    known = [slide_id for slide_id in named if slide_id in stored]
    if not known:
        raise CohortError(
            f"none of the {len(table)} slides of the table is in {store.location}; the table has "
            f"{shorten(named)}, the store {shorten(sorted(stored))}"
        )
    empty = {slide_id for slide_id in known if store.slide(slide_id).n_patches == 0}
    filled = [slide_id for slide_id in known if slide_id not in empty]
    usable = {s for s in filled if all(store.slide(s).has(array) for array in arrays)}
    if not usable:
        _refuse_absent(store, arrays, filled or known)
    frame = table[list(dict.fromkeys(["slide_id", "patient_id", "label", *columns]))]
    return Join(
        slides=frame[frame["slide_id"].isin(usable)].sort_values("slide_id", ignore_index=True),
        in_table=len(table),
        without_label=table.loc[table["label"] == "", "slide_id"].tolist(),
        without_features=[s for s in named if s not in usable and s not in empty],
        without_tissue=sorted(empty),
        not_in_table=sorted(stored.difference(named)),
    )


def _refuse_absent(store: Store, arrays: Sequence[str], slide_ids: Sequence[str]) -> None:
    """Raise a StoreMismatchError listing what the store has instead."""
    found = {pair for slide_id in slide_ids[:20] for pair in store.slide(slide_id).features()}
    listed = ", ".join(f"{encoder} at {depth}" for encoder, depth in sorted(found))
    raise StoreMismatchError(
        f"{store.location} has no {' and '.join(arrays)}; it has {listed or 'no features yet'}; "
        "choose one of these, or run extract"
    )
