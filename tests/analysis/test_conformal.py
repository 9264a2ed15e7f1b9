import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from scipy.special import softmax
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.naive_bayes import GaussianNB

from histotransfer_pl.analysis.conformal import ConformalSets
from histotransfer_pl.analysis.predictions import Floats, Ints
from histotransfer_pl.errors import AnalysisError


def simulated(n: int = 600, seed: int = 0) -> tuple[Floats, Ints]:
    """Overconfident probabilities of three classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return softmax(3 * (rng.normal(size=(n, 3)) + 1.2 * np.eye(3)[labels]), 1), labels


def real() -> tuple[Floats, Ints]:
    """Cytology of 569 breast masses, each predicted by a model that has not seen it."""
    features, labels = load_breast_cancer(return_X_y=True)
    return cross_val_predict(GaussianNB(), features[:, :3], labels, method="predict_proba"), labels


@pytest.mark.parametrize("error", [0.05, 0.1, 0.3])
def test_sets_are_those_of_mapie(error: float) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 300)
    features = rng.normal(size=(300, 4)) + np.eye(4)[labels]
    model = LogisticRegression().fit(features[:100], labels[:100])
    theirs = SplitConformalClassifier(
        model, confidence_level=1 - error, conformity_score="lac", prefit=True
    ).conformalize(features[100:200], labels[100:200])
    expected = theirs.predict_set(features[200:])[1][:, :, 0]
    chances = model.predict_proba(features)
    ours = ConformalSets.fit(
        chances[100:200], labels[100:200], np.arange(100).astype(str), error=error
    )
    np.testing.assert_array_equal(ours.sets(chances[200:]), expected)


@pytest.mark.parametrize("cohort", [simulated, real])
def test_ninety_percent_sets_hold_the_truth_in_88_to_92_percent(cohort: object) -> None:
    chances, labels = simulated() if cohort is simulated else real()
    rng = np.random.default_rng(0)
    n = len(labels)
    held = []
    for _ in range(1000):
        rows = rng.permutation(n)
        fit, new = rows[: n // 2], rows[n // 2 :]
        found = ConformalSets.fit(chances[fit], labels[fit], fit.astype(str))
        held.append(found.sets(chances[new])[np.arange(len(new)), labels[new]].mean())
    assert 0.88 <= np.mean(held) <= 0.92


def test_patients_with_many_slides_do_not_break_the_promise() -> None:
    """Patients with many slides are the easy ones; each patient counts once all the same."""
    rng = np.random.default_rng(2)
    held: list[float] = []
    naive: list[float] = []
    for _ in range(400):
        hard = rng.random(80) < 0.3
        patient = np.repeat(np.arange(80), np.where(hard, 1, 8))
        labels = rng.integers(0, 2, len(patient))
        signal = np.where(hard, 0.2, 3.0)[patient] * (2 * labels - 1) + rng.normal(size=len(labels))
        chances = np.stack([1 / (1 + np.exp(signal)), 1 / (1 + np.exp(-signal))], 1)
        fit = patient < 40
        names = patient.astype(str)
        by_patient = ConformalSets.fit(chances[fit], labels[fit], names[fit])
        by_slide = ConformalSets.fit(chances[fit], labels[fit], np.arange(fit.sum()).astype(str))
        for found, kept in ((by_patient, held), (by_slide, naive)):
            right = found.sets(chances[~fit])[np.arange((~fit).sum()), labels[~fit]]
            kept.append(np.mean([right[patient[~fit] == p].mean() for p in range(40, 80)]))
    assert 0.88 <= np.mean(held) <= 0.93
    assert np.mean(naive) < 0.87


def test_it_abstains_where_the_set_is_not_one_class() -> None:
    rule = ConformalSets(threshold=0.6, error=0.1, n_patients=50)
    chances = np.array([[0.5, 0.5, 0.0], [0.9, 0.05, 0.05], [0.34, 0.33, 0.33]])
    assert rule.sets(chances).sum(1).tolist() == [2, 1, 0]
    assert rule.abstains(chances).tolist() == [True, False, True]


def test_too_few_patients_promise_nothing() -> None:
    chances, labels = simulated(8)
    with pytest.raises(
        AnalysisError, match=r"8 patients cannot promise an error of 0\.1: it needs at least 9"
    ):
        ConformalSets.fit(chances, labels, np.arange(8).astype(str))
    with pytest.raises(AnalysisError, match=r"error is 5: give a share"):
        ConformalSets.fit(chances, labels, np.arange(8).astype(str), error=5)
