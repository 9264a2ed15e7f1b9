"""How much of the features is the hospital: do near neighbours share the class or the site?

Both indices look at cosine neighbours of other patients. A neighbour of the same class from
another site speaks for the features, one of another class from the same site against them; the
rest says nothing. Values are those of the package `croma`, which the tests hold them against.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score

from histotransfer_pl.analysis.probe import Features
from histotransfer_pl.analysis.targets import Floats, Ints
from histotransfer_pl.errors import AnalysisError

Names = Sequence[str] | NDArray[np.generic]

# distances held at once: 64 MB
_BLOCK = 8_000_000


@dataclass(frozen=True)
class RobustnessIndex:
    """The index and what it was read from.

    Attributes:
        value: The index.
        k: Number of neighbours of each row.
        for_class: (N,) neighbours of each row that share its class alone.
        for_site: (N,) those that share its site alone.
    """

    value: float
    k: int
    for_class: Ints = field(repr=False, compare=False)
    for_site: Ints = field(repr=False, compare=False)


def robustness_index(
    features: Features,
    classes: Names,
    sites: Names,
    patients: Names,
    *,
    ks: Sequence[int] = (5, 11, 21, 51, 101),
) -> RobustnessIndex:
    """Share of the class among the neighbours that share either class or site (de Jong 2025).

    1: neighbours share the class whatever the site; 0: they share the site whatever the class.

    Args:
        features: (N, D) features of patches or slides.
        classes: (N,) class of each row.
        sites: (N,) site of each row.
        patients: (N,) patient of each row; rows of one patient are no neighbours.
        ks: Numbers of neighbours; that with the best balanced accuracy of the class counts.

    Raises:
        AnalysisError: Rows that do not match, or no neighbour that shares only one of the two.
    """
    rows, y, site, patient = _check(features, classes, sites, patients)
    largest = min(max(ks), len(rows) - 1)
    near = np.empty((len(rows), largest), np.int64)  # (N, K)
    usable = np.empty((len(rows), largest), bool)  # (N, K), of another patient
    for block, distances in _distances(rows, patient):
        near[block] = np.argsort(distances, 1, kind="stable")[:, :largest]
        usable[block] = np.isfinite(np.take_along_axis(distances, near[block], 1))
    same_class, same_site = y[near] == y[:, None], site[near] == site[:, None]  # (N, K) each
    accuracy = {k: _knn_accuracy(y, near[:, :k], usable[:, :k]) for k in ks}
    best = max(ks, key=lambda k: accuracy[k])  # of equal ones the first
    same_class, same_site = (both[:, :best] for both in (same_class, same_site))
    for_class = (same_class & ~same_site & usable[:, :best]).sum(1)  # (N,)
    for_site = (~same_class & same_site & usable[:, :best]).sum(1)  # (N,)
    telling = int(for_class.sum() + for_site.sum())
    if telling == 0:
        raise AnalysisError(
            f"no neighbour among {best} shares class or site alone: the index needs every class "
            "at several sites"
        )
    return RobustnessIndex(float(for_class.sum() / telling), best, for_class, for_site)


def robustness_margins(
    features: Features, classes: Names, sites: Names, patients: Names, *, m: int = 5
) -> Floats:
    """Margin (N,) by which the class is nearer than the site, from -1 to 1; CRoMa is their median.

    It is (d_site - d_class) / (d_site + d_class), with the mean cosine distance to the m
    nearest of its class from other sites and to the m nearest of its site of other classes.

    Args:
        features: (N, D) features.
        classes: (N,) class of each row.
        sites: (N,) site of each row.
        patients: (N,) patient of each row.
        m: Neighbours of each kind.

    Raises:
        AnalysisError: A row has fewer than m neighbours of a kind.
    """
    rows, y, site, patient = _check(features, classes, sites, patients)
    margins = np.empty(len(rows))
    for block, distances in _distances(rows, patient):
        same_class, same_site = y[block, None] == y, site[block, None] == site  # (n, N) each
        to_class = _nearest(np.where(same_class & ~same_site, distances, np.inf), m)  # (n,)
        to_site = _nearest(np.where(~same_class & same_site, distances, np.inf), m)  # (n,)
        with np.errstate(invalid="ignore"):  # a missing neighbour is infinitely far: NaN
            margins[block] = (to_site - to_class) / (to_site + to_class)
    if np.isnan(margins).any():
        missing = np.flatnonzero(np.isnan(margins))
        raise AnalysisError(
            f"{len(missing)} of {len(rows)} rows, row {missing[0]} for instance, lack {m} "
            "neighbours of their class at other sites or of other classes at their site"
        )
    return margins


def _check(
    features: Features, classes: Names, sites: Names, patients: Names
) -> tuple[Floats, Ints, Ints, Ints]:
    lengths = {len(features), len(classes), len(sites), len(patients)}
    if len(lengths) != 1:
        raise AnalysisError(
            f"{len(features)} rows of features, {len(classes)} classes, {len(sites)} sites, "
            f"{len(patients)} patients: give one of each per row"
        )
    y, site, patient = (
        np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64)
        for names in (classes, sites, patients)
    )
    for name, values in (("class", y), ("site", site)):
        if values.max() == 0:
            raise AnalysisError(f"all rows are of one {name}: robustness needs several of both")
    rows = np.asarray(features, np.float64)
    if not np.isfinite(rows).all():
        raise AnalysisError("features are not finite: verify the store")
    lengths_of_rows = np.linalg.norm(rows, axis=1, keepdims=True)  # (N, 1)
    return rows / np.maximum(lengths_of_rows, np.finfo(float).tiny), y, site, patient


def _distances(rows: Floats, patient: Ints) -> Iterator[tuple[slice, Floats]]:
    """Cosine distances (n, N) of blocks of rows; infinite within a patient."""
    step = max(1, _BLOCK // len(rows))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        distances = 1 - rows[block] @ rows.T  # (n, N)
        distances[patient[block, None] == patient] = np.inf
        yield block, distances


def _nearest(distances: Floats, m: int) -> Floats:
    return np.asarray(np.partition(distances, m - 1, axis=1)[:, :m].mean(1))


def _knn_accuracy(y: Ints, near: Ints, usable: NDArray[np.bool_]) -> float:
    votes = np.zeros((len(y), int(y.max()) + 1))  # (N, C)
    for column in range(near.shape[1]):
        rows = np.flatnonzero(usable[:, column])
        votes[rows, y[near[rows, column]]] += 1
    known = usable.any(1)
    return float(balanced_accuracy_score(y[known], votes[known].argmax(1)))
