import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.naive_bayes import GaussianNB

from histotransfer_pl.analysis.conformal import p_values, prediction_sets, require_enough
from histotransfer_pl.analysis.predictions import Floats, Ints, Names
from histotransfer_pl.analysis.recalibration import calibrate
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.records.calibration import Calibration


def simulated(n: int = 600, seed: int = 0) -> tuple[Floats, Ints]:
    """Overconfident probabilities of three classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return softmax(3 * (rng.normal(size=(n, 3)) + 1.2 * np.eye(3)[labels]), 1), labels


def real() -> tuple[Floats, Ints]:
    """Cytology of 569 breast masses, each predicted by a model that has not seen it."""
    features, labels = load_breast_cancer(return_X_y=True)
    return cross_val_predict(GaussianNB(), features[:, :3], labels, method="predict_proba"), labels


def sets(
    fit: tuple[Floats, Ints], patients: Names, new: Floats, error: float = 0.1
) -> NDArray[np.bool_]:
    return prediction_sets(p_values(calibrate(*fit, patients), new), error)


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
    names = np.arange(100).astype(str)
    ours = sets((chances[100:200], labels[100:200]), names, chances[200:], error)
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("cohort", [simulated, real])
def test_ninety_percent_sets_hold_the_truth_in_88_to_92_percent(cohort: object) -> None:
    chances, labels = simulated() if cohort is simulated else real()
    rng = np.random.default_rng(0)
    n = len(labels)
    held = []
    for _ in range(1000):
        rows = rng.permutation(n)
        fit, new = rows[: n // 2], rows[n // 2 :]
        found = sets((chances[fit], labels[fit]), fit.astype(str), chances[new])
        held.append(found[np.arange(len(new)), labels[new]].mean())
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
        slides = np.arange(fit.sum()).astype(str)
        for owners, kept in ((names[fit], held), (slides, naive)):
            found = sets((chances[fit], labels[fit]), owners, chances[~fit])
            right = found[np.arange((~fit).sum()), labels[~fit]]
            kept.append(np.mean([right[patient[~fit] == p].mean() for p in range(40, 80)]))
    assert 0.88 <= np.mean(held) <= 0.93
    assert np.mean(naive) < 0.87


def test_p_values_count_the_patients_who_are_as_unusual() -> None:
    # two slides of patient 0 count half each; nine patients
    kept = Calibration(1.0, tuple(i / 10 for i in range(10)), (0, 0, *range(1, 9)))
    found = p_values(kept, np.array([[0.75, 0.25, 0.0], [0.1, 0.05, 0.85]]))
    below = np.array([[2, 7, 9], [8, 9, 1]])  # of 0.25, 0.75, 1 and of 0.9, 0.95, 0.15
    np.testing.assert_allclose(found, 1 - below / 10, rtol=1e-12)
    assert prediction_sets(found, 0.25).tolist() == [[True, True, False], [False, False, True]]
    # a tie belongs to the set: nothing new is more unusual than what was seen
    tie = p_values(kept, np.array([[0.5, 0.5 - 1e-15, 0.0]]))
    np.testing.assert_allclose(tie, [[0.6, 0.6, 0.1]], rtol=1e-12)


def test_folds_together_hold_the_truth_at_least_as_often() -> None:
    """The mean p-value of five models, each validated on other patients."""
    rng = np.random.default_rng(3)
    held = []
    for _ in range(300):
        chances, labels = simulated(200, int(rng.integers(1 << 30)))
        blur = rng.normal(0, 0.3, (5, 200, 3))  # five models that differ a little
        models = softmax(np.log(chances) + blur, 2)  # (5, S, C)
        p = [
            p_values(
                calibrate(
                    m[i * 20 : i * 20 + 20], labels[i * 20 : i * 20 + 20], np.arange(20).astype(str)
                ),
                m[100:],
            )
            for i, m in enumerate(models)
        ]
        inside = prediction_sets(np.mean(p, axis=0), 0.1)
        held.append(inside[np.arange(100), labels[100:]].mean())
    assert 0.90 <= np.mean(held) <= 0.96


def test_too_few_patients_promise_nothing() -> None:
    require_enough(9, 0.1)
    with pytest.raises(
        AnalysisError,
        match=r"8 validation patients cannot promise an error of 0\.1: it needs at least 9",
    ):
        require_enough(8, 0.1)
    with pytest.raises(AnalysisError, match=r"error is 5: give a share"):
        require_enough(100, 5)
