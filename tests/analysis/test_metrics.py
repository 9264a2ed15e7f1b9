"""Every metric against scikit-learn, which takes one resample at a time."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as oracle
from sklearn.preprocessing import label_binarize

from histotransfer_pl.analysis.metrics import METRICS, auprc, auroc, decide, evaluate
from histotransfer_pl.analysis.predictions import Floats, Ints, Predictions

RNG = np.random.default_rng(4)
S, B = 90, 7
WEIGHTS = RNG.integers(0, 4, (B, S)).astype(float)
NO_FOLDS = np.zeros(S, np.int64)
LABELS = {"binary": RNG.integers(0, 2, S), "three": RNG.integers(0, 3, S)}
# rounding makes ties, which every ranking metric must count by halves
_ROUGH = RNG.dirichlet([1, 1, 1], S).round(1) + 1e-3
SCORES = {
    "binary": (0.3 * LABELS["binary"] + 0.7 * RNG.random(S)).round(1),
    "three": _ROUGH / _ROUGH.sum(1, keepdims=True),
}
KINDS = pytest.mark.parametrize("kind", ["binary", "three"])


def sklearn_value(name: str, labels: Ints, scores: Floats, weights: Floats) -> float:
    binary = scores.ndim == 1
    decided = decide(scores)
    one_hot = labels if binary else label_binarize(labels, classes=[0, 1, 2])
    average = "binary" if binary else "macro"
    computations: dict[str, Callable[[], float]] = {
        "auroc": lambda: oracle.roc_auc_score(
            labels, scores, multi_class="ovr", sample_weight=weights
        ),
        "auprc": lambda: oracle.average_precision_score(one_hot, scores, sample_weight=weights),
        "balanced_accuracy": lambda: oracle.balanced_accuracy_score(
            labels, decided, sample_weight=weights
        ),
        "f1": lambda: oracle.f1_score(labels, decided, average=average, sample_weight=weights),
        "accuracy": lambda: oracle.accuracy_score(labels, decided, sample_weight=weights),
        "brier": lambda: oracle.brier_score_loss(
            labels, scores, sample_weight=weights, scale_by_half=True
        ),
    }
    return float(computations[name]())


@KINDS
@pytest.mark.parametrize("name", sorted(set(METRICS) - {"ece"}))
def test_equals_scikit_learn_on_every_resample(kind: str, name: str) -> None:
    labels, scores = LABELS[kind], SCORES[kind]
    expected = [sklearn_value(name, labels, scores, weights) for weights in WEIGHTS]
    np.testing.assert_allclose(METRICS[name](labels, scores, WEIGHTS, NO_FOLDS), expected)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_two_columns_are_the_same_as_one(name: str) -> None:
    labels, scores = LABELS["binary"], SCORES["binary"]
    # away from 0.5, where the two forms break a tie differently
    scores = np.where(scores == 0.5, 0.55, scores)
    columns = np.stack([1 - scores, scores], 1)
    np.testing.assert_allclose(
        METRICS[name](labels, columns, WEIGHTS, NO_FOLDS),
        METRICS[name](labels, scores, WEIGHTS, NO_FOLDS),
    )


@pytest.mark.parametrize("metric", [auroc, auprc])
def test_ranking_is_within_folds(metric: Callable[..., Floats]) -> None:
    labels, scores = LABELS["binary"], SCORES["binary"]
    folds = np.arange(S) % 3
    shifted = scores + 10 * folds  # another model, another scale
    ones = np.ones((1, S))
    np.testing.assert_allclose(
        metric(labels, shifted, ones, folds), metric(labels, scores, ones, folds)
    )
    assert abs(metric(labels, shifted, ones, NO_FOLDS) - metric(labels, scores, ones, folds)) > 0.1


def test_auroc_over_folds_is_the_pair_weighted_mean() -> None:
    labels, scores = LABELS["binary"], SCORES["binary"]
    folds = np.arange(S) % 3
    areas = [oracle.roc_auc_score(labels[folds == f], scores[folds == f]) for f in range(3)]
    pairs = [labels[folds == f].sum() * (1 - labels[folds == f]).sum() for f in range(3)]
    expected = np.average(areas, weights=pairs)
    np.testing.assert_allclose(auroc(labels, scores, np.ones((1, S)), folds), expected)


@pytest.mark.parametrize("name", ["auroc", "auprc", "balanced_accuracy"])
def test_a_resample_without_a_class_is_undefined(name: str) -> None:
    labels, scores = LABELS["binary"], SCORES["binary"]
    weights = np.stack([np.ones(S), (labels == 0).astype(float)])
    defined = np.isfinite(METRICS[name](labels, scores, weights, NO_FOLDS))
    assert defined.tolist() == [True, False]


def test_slides_count_once_whatever_their_patches() -> None:
    """The published code counted each slide once per patch; papers.md section 1 has the case."""
    celiac = [65, 184, 262, 678, 224, 72, 266, 120]
    normal = [137, 62, 43, 35, 63, 213, 137, 38, 204, 95, 43, 195, 65, 26]
    patches = np.array(celiac + normal)
    labels = np.array([1] * len(celiac) + [0] * len(normal))
    scores = np.where(labels == 1, 3.0, 0.0)
    scores[patches == 224] = 1.0
    scores[patches == 35] = 2.0  # the one discordant pair
    ids = [str(number) for number in range(len(patches))]
    slides = Predictions(ids, ids, labels, scores)
    assert evaluate(auroc, slides)[0] == pytest.approx(111 / 112, abs=1e-15)
    wrong = evaluate(auroc, slides, patches[None].astype(float))[0]
    assert wrong == pytest.approx(0.9969098284797144, abs=1e-15)
