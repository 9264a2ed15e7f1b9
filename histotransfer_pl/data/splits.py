"""Patient-grouped, stratified, nested splits."""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from histotransfer_pl.errors import SplitError, shorten
from histotransfer_pl.outcomes.classes import Classes
from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.records.run import SplitSpec

_log = logging.getLogger(__name__)
PARTS = ("train", "validation", "test")
_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Split:
    """Slide ids of the three parts; no patient has slides in two of them."""

    train: list[str]
    validation: list[str]
    test: list[str]

    def part(self, name: str) -> list[str]:
        """The slide ids of ``train``, ``validation`` or ``test``."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


def split_cohort(labelled: pd.DataFrame, spec: SplitSpec, kind: type[Outcome] = Classes) -> Split:
    """The split of labelled slides that a record describes.

    Args:
        labelled: Usable slides with a target, as of `Join.labelled`; with ``site`` if it keeps
            sites apart.
        spec: How patients are shared out.
        kind: Kind of the target, which says what folds are balanced by.

    Raises:
        SplitError: If the folds cannot be made.
    """
    if spec.column is not None:
        return split_by_column(labelled, spec.column, spec.fold, kind)
    split = split_by_site if spec.by == "site" else split_by_seed
    return split(labelled, spec.fold, int(spec.n_folds or 0), int(spec.seed or 0), kind)


def split_by_seed(
    frame: pd.DataFrame, fold: int, n_folds: int, seed: int, kind: type[Outcome] = Classes
) -> Split:
    """Cut patients into folds; one is the test part, the next one the validation part.

    Over the folds every patient is tested once, validated once and trained on otherwise, so no
    choice that is made on the validation part has seen the test part.

    Args:
        frame: Labelled slides, columns ``slide_id``, ``patient_id`` and ``label``.
        fold: Which fold is the test part, from 0.
        n_folds: Number of folds, at least 3.
        seed: Seed of the shuffle.
        kind: Kind of the target.

    Raises:
        SplitError: If the folds cannot be made.
    """
    return _cut(frame, "patient_id", fold, n_folds, seed, kind)


def split_by_site(
    frame: pd.DataFrame, fold: int, n_folds: int, seed: int, kind: type[Outcome] = Classes
) -> Split:
    """Cut sites into folds, so that no site has slides in two parts (Howard et al. 2021).

    With as many folds as sites each site is the test part once: leave-site-out. Sites that share
    a patient stay together. Classes are balanced as far as whole sites allow.

    Args:
        frame: As for `split_by_seed`, with a column ``site``.
        fold: Which fold is the test part, from 0.
        n_folds: Number of folds, at least 3 and at most the number of sites.
        seed: Seed of the shuffle.
        kind: Kind of the target.

    Raises:
        SplitError: If a slide has no site, or the folds cannot be made.
    """
    if frame["site"].isna().any():
        nameless = frame.loc[frame["site"].isna(), "slide_id"].tolist()
        raise SplitError(f"no site for {shorten(nameless)}: fill in the column or drop the slides")
    together = frame.assign(group=_linked(frame["site"], frame["patient_id"]))
    count = together["group"].nunique()
    if count < n_folds:
        linked = "" if count == frame["site"].nunique() else " without a patient in common"
        raise SplitError(
            f"{count} site(s){linked}, but {n_folds} folds that keep sites apart need as many: "
            "lower n_folds (at least 3), or split by patient"
        )
    return _cut(together, "group", fold, n_folds, seed, kind)


def _cut(
    frame: pd.DataFrame, group: str, fold: int, n_folds: int, seed: int, kind: type[Outcome]
) -> Split:
    if n_folds < 3:
        raise SplitError(f"n_folds is {n_folds}; train, validation and test need at least 3 folds")
    if not 0 <= fold < n_folds:
        raise SplitError(f"fold is {fold}; with n_folds {n_folds} it runs from 0 to {n_folds - 1}")
    # The order of the rows must not matter: the same slides give the same folds.
    frame = frame.sort_values("slide_id", ignore_index=True)
    strata = kind.strata(frame, n_folds)
    if group == "patient_id":
        _require_patients(frame, strata, n_folds, kind.group)
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed).split(
        frame, strata, frame[group]
    )
    members = [frame["slide_id"].iloc[rows].tolist() for _, rows in folds]
    validation = (fold + 1) % n_folds
    train = [i for i in range(n_folds) if i not in (fold, validation)]
    split = Split(
        train=sorted(slide for i in train for slide in members[i]),
        validation=members[validation],
        test=members[fold],
    )
    check_split(split, frame, kind)
    return split


def split_by_column(
    frame: pd.DataFrame, column: str, fold: int, kind: type[Outcome] = Classes
) -> Split:
    """The split a table prescribes.

    Args:
        frame: Labelled slides, columns ``slide_id``, ``patient_id``, ``label`` and ``column``.
        column: Either words (train, validation, test) or fold numbers; with numbers the slides
            of ``fold`` are the test part and those of the next number the validation part.
        fold: The test fold; unused with words.
        kind: Kind of the target.

    Raises:
        SplitError: If the column is of neither kind, or the split leaks patients.
    """
    values = frame[column]
    if values.isna().any():
        raise SplitError(
            f"column {column} is empty for {shorten(frame.loc[values.isna(), 'slide_id'].tolist())}"
        )
    words = values.astype(str).str.strip().str.lower().map(_WORDS)
    if words.notna().all():
        parts = words
    else:
        numbers = pd.to_numeric(values, errors="coerce")
        if numbers.isna().any():
            raise SplitError(
                f"column {column} holds {sorted(set(values.astype(str)))[:8]}; expected train, "
                "validation and test, or fold numbers"
            )
        known = sorted(numbers.unique())
        if fold not in known or len(known) < 3:
            raise SplitError(
                f"column {column} holds the folds {[f'{n:g}' for n in known]}; need at least "
                f"three, and fold {fold} among them"
            )
        following = known[(known.index(fold) + 1) % len(known)]
        parts = numbers.map(
            lambda n: "test" if n == fold else "validation" if n == following else "train"
        )
    split = Split(*(frame.loc[parts == name, "slide_id"].tolist() for name in PARTS))
    check_split(split, frame, kind)
    return split


def check_split(split: Split, frame: pd.DataFrame, kind: type[Outcome] = Classes) -> None:
    """Refuse a split that leaks patients, or lacks a class where one trains or chooses."""
    rows = frame.set_index("slide_id")
    owners: dict[str, str] = {}
    for name in PARTS:
        for patient in rows.loc[split.part(name), "patient_id"].unique():
            if owners.setdefault(patient, name) != name:
                raise SplitError(
                    f"patient {patient!r} has slides in {owners[patient]} and in {name}; all "
                    "slides of a patient belong to one part"
                )
    for name in ("train", "validation"):
        if not split.part(name):
            raise SplitError(f"the {name} part is empty; it is needed to train and to choose")
    for name in PARTS:
        part = split.part(name)
        lacks = kind.lacks(rows.loc[part], rows, learning=name == "train") if part else ""
        if not lacks:
            continue
        found = f"the {name} part ({len(part)} slides) has {lacks}"
        if name != "test":
            raise SplitError(f"{found}; use fewer folds or another split_seed")
        # As when single blocks are left out: the folds together can be ranked.
        watched = kind.watched.upper()
        _log.warning(f"{found}: it has no {watched} of its own, the report pools the folds")


def _linked(sites: pd.Series, patients: pd.Series) -> "np.ndarray":
    """A number per slide, equal for sites that a chain of patients links, (S,)."""
    site, patient = (pd.factorize(column)[0] for column in (sites, patients))
    n_sites = int(site.max()) + 1
    size = n_sites + int(patient.max()) + 1
    edges = coo_array((np.ones(len(site)), (site, patient + n_sites)), shape=(size, size))
    return np.asarray(connected_components(edges, directed=False)[1][site])


def _require_patients(
    frame: pd.DataFrame, strata: "pd.Series[str]", n_folds: int, what: str
) -> None:
    patients = frame["patient_id"].groupby(strata).nunique()
    few = patients[patients < n_folds]
    if len(few):
        raise SplitError(
            f"{what} {few.index[0]!r} has {few.iloc[0]} patient(s), but {n_folds} folds need as "
            f"many patients of each {what}: lower n_folds, merge or drop the {what}"
        )
