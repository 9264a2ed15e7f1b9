"""Linear probes: how well one layer's features tell classes apart, by the same rule for all.

The probe is a logistic regression on standardised features. Its regularisation is chosen within
the training part of each fold, from the same values for every layer and every network, so that no
arm of a comparison gets a better search.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from histotransfer_pl.analysis.predictions import Floats, Ints
from histotransfer_pl.errors import AnalysisError

_log = logging.getLogger(__name__)

Score = Literal["auroc", "balanced_accuracy"]
Fold = tuple[Ints, Ints]
# (N, D) of any floating type, as a store gives them
Features = NDArray[np.floating]

INVERSE_PENALTIES: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of scikit-learn's C that the inner folds choose from."""


_MAX_ITERATIONS = 500


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """What the probe scored at each layer."""

    scores: dict[str, Floats]  # layer: (folds,)
    probabilities: dict[str, Floats]  # layer: (N, C), each row from the fold that tested it
    penalties: dict[str, Floats]  # layer: (folds,), the C chosen
    folds: Ints  # (N,), the fold that tested each row
    chance: float
    n_groups: int


def linear_probe(
    features: Mapping[str, Features],
    labels: Ints,
    groups: Sequence[str] | NDArray[np.generic],
    *,
    score: Score = "auroc",
    n_folds: int = 5,
    n_inner_folds: int = 3,
    penalties: Sequence[float] = INVERSE_PENALTIES,
    seed: int = 0,
) -> ProbeResult:
    """Score every layer by grouped, stratified, nested cross-validation.

    The folds depend on labels, groups and seed alone: two networks probed with the same are
    compared on the same folds.

    Args:
        features: Layer name to features (N, D), in order of depth.
        labels: (N,) class of each row, 0 to C - 1.
        groups: (N,) patient of each row; a patient is never on two sides.
        score: Score of the held-out rows: AUROC (one-vs-rest mean) or balanced accuracy.
        n_folds: Outer folds, which score.
        n_inner_folds: Inner folds, which choose the penalty by log loss.
        penalties: Values of C to choose from.
        seed: Of the folds.

    Raises:
        AnalysisError: Rows that do not match, features that are not finite, one class, or a
            class with fewer groups than the folds need.
    """
    labels, group_index = _check(features, labels, groups, n_folds, n_inner_folds)
    outer = list(_splits(labels, group_index, n_folds, seed))
    fold_of = np.zeros(len(labels), dtype=np.int64)
    for number, (_, test) in enumerate(outer):
        fold_of[test] = number
    inner = [
        list(_splits(labels[train], group_index[train], n_inner_folds, seed)) for train, _ in outer
    ]
    scores, probabilities, chosen = {}, {}, {}
    for layer, values in features.items():
        rows = np.asarray(values, np.float32)  # (N, D)
        # Beside other work on the same cores a second thread made these fits 20 times slower:
        # its short products wait for one another.
        with threadpool_limits(1):
            probabilities[layer], chosen[layer] = _cross_validate(
                rows, labels, outer, inner, penalties
            )
        scores[layer] = np.array(
            [_score(labels[test], probabilities[layer][test], score) for _, test in outer]
        )
    chance = 0.5 if score == "auroc" else 1 / (labels.max() + 1)
    n_groups = len(np.unique(group_index))
    return ProbeResult(scores, probabilities, chosen, fold_of, float(chance), n_groups)


def _cross_validate(
    rows: NDArray[np.float32],
    labels: Ints,
    outer: Sequence[Fold],
    inner: Sequence[Sequence[Fold]],
    penalties: Sequence[float],
) -> tuple[Floats, Floats]:
    """Probabilities (N, C) from the fold that tested each row, and the C chosen, (folds,)."""
    probabilities = np.zeros((len(labels), labels.max() + 1))
    chosen = []
    for (train, test), within in zip(outer, inner, strict=True):
        chosen.append(_choose(rows[train], labels[train], within, penalties))
        _, probabilities[test] = next(_path(rows, labels, (train, test), chosen[-1:]))
    return probabilities, np.array(chosen)


def _choose(
    rows: NDArray[np.float32], labels: Ints, inner: Sequence[Fold], penalties: Sequence[float]
) -> float:
    rising = sorted(penalties)
    losses = np.zeros(len(rising))
    for fold in inner:
        for place, (truth, predicted) in enumerate(_path(rows, labels, fold, rising)):
            losses[place] += log_loss(truth, predicted, labels=np.arange(labels.max() + 1))
    return rising[int(losses.argmin())]  # the strongest penalty among ties


def _path(
    rows: NDArray[np.float32], labels: Ints, fold: Fold, penalties: Sequence[float]
) -> Iterator[tuple[Ints, Floats]]:
    """Held-out labels (n,) and probabilities (n, C) for each penalty, from strong to weak."""
    train, test = fold
    scaler = StandardScaler().fit(rows[train])
    inside, outside = scaler.transform(rows[train]), scaler.transform(rows[test])
    # each fit starts from the last one's solution, which is close
    probe = LogisticRegression(max_iter=_MAX_ITERATIONS, tol=1e-4, warm_start=True)
    for penalty in penalties:
        probe.set_params(C=penalty)
        with warnings.catch_warnings():
            # said below with the penalty it happened at
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(inside, labels[train])
        if probe.n_iter_.max() >= _MAX_ITERATIONS:
            _log.info("the probe with C = %g stopped before it converged", penalty)
        yield labels[test], probe.predict_proba(outside)


def _splits(labels: Ints, groups: Ints, n_folds: int, seed: int) -> Iterator[Fold]:
    patients = len(np.unique(groups))
    if patients < n_folds:
        raise AnalysisError(
            f"a part has {patients} patient(s) for {n_folds} folds: use fewer folds"
        )
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    for train, test in folds.split(np.zeros(len(labels)), labels, groups):
        for part, rows in (("training", train), ("held-out", test)):
            missing = np.setdiff1d(labels, labels[rows])
            if len(missing):
                raise AnalysisError(
                    f"class {missing[0]} is missing in the {part} part of one of {n_folds} "
                    "folds by patient: use fewer folds, or another seed"
                )
        yield train, test


def _score(truth: Ints, predicted: Floats, score: Score) -> float:
    if score == "balanced_accuracy":
        return float(balanced_accuracy_score(truth, predicted.argmax(1)))
    if predicted.shape[1] == 2:
        return float(roc_auc_score(truth, predicted[:, 1]))
    return float(roc_auc_score(truth, predicted, multi_class="ovr"))


def _check(
    features: Mapping[str, Features],
    labels: Ints,
    groups: Sequence[str] | NDArray[np.generic],
    n_folds: int,
    n_inner_folds: int,
) -> tuple[Ints, Ints]:
    labels, names = np.asarray(labels), np.asarray(groups)
    lengths = {"labels": len(labels), "groups": len(names)}
    lengths |= {layer: len(values) for layer, values in features.items()}
    if not features or len(set(lengths.values())) != 1:
        raise AnalysisError(f"rows do not match: {lengths}; give every layer of the same patches")
    for layer, values in features.items():
        if not np.isfinite(values).all():
            raise AnalysisError(f"features of layer {layer} are not finite: verify the store")
    present = np.unique(labels)
    if len(present) < 2 or present.tolist() != list(range(len(present))):
        raise AnalysisError(f"classes {present.tolist()}: a probe needs 0, 1, ... without gaps")
    group_index = np.unique(names, return_inverse=True)[1].astype(np.int64)
    # Every training part must itself be split into the inner folds, also that of the largest fold.
    needed = max(n_folds, math.ceil(n_inner_folds * n_folds / max(n_folds - 1, 1)))
    for label in present:
        carriers = len(np.unique(group_index[labels == label]))
        if carriers < needed:
            raise AnalysisError(
                f"class {label} has {carriers} patient(s), {n_folds} folds with {n_inner_folds} "
                f"inside need at least {needed}: use fewer folds"
            )
    return labels.astype(np.int64), group_index
