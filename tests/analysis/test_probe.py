from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from histotransfer_pl.analysis.predictions import Floats, Ints
from histotransfer_pl.analysis.probe import linear_probe
from histotransfer_pl.errors import AnalysisError

N, PATIENTS = 240, 24


def data(n_classes: int = 2, seed: int = 0) -> tuple[dict[str, Floats], Ints, Ints]:
    rng = np.random.default_rng(seed)
    groups = np.arange(N) % PATIENTS
    labels = rng.integers(0, n_classes, N)
    noise = rng.normal(size=(N, 12))
    signal = np.zeros((N, 12))
    signal[:, :n_classes] = np.eye(n_classes)[labels]
    return {"noise": noise, "weak": noise + signal, "strong": noise + 4 * signal}, labels, groups


@pytest.mark.parametrize("n_classes", [2, 3])
def test_more_signal_scores_more_and_none_scores_chance(n_classes: int) -> None:
    result = linear_probe(*data(n_classes))
    means = [float(result.scores[layer].mean()) for layer in ("noise", "weak", "strong")]
    assert means[0] == pytest.approx(0.5, abs=0.1)
    assert means[0] + 0.1 < means[1] < means[2]
    assert means[2] > 0.97
    assert (result.chance, result.n_groups) == (0.5, PATIENTS)


def test_scores_are_those_of_the_held_out_probabilities() -> None:
    features, labels, groups = data()
    result = linear_probe(features, labels, groups, n_folds=4)
    for layer, scores in result.scores.items():
        expected = [
            roc_auc_score(
                labels[result.folds == fold], result.probabilities[layer][result.folds == fold, 1]
            )
            for fold in range(4)
        ]
        np.testing.assert_allclose(scores, expected)
    balanced = linear_probe(features, labels, groups, n_folds=4, score="balanced_accuracy")
    rows = balanced.folds == 2
    decided = balanced.probabilities["weak"][rows].argmax(1)
    assert balanced.scores["weak"][2] == balanced_accuracy_score(labels[rows], decided)
    assert balanced.chance == 0.5


def test_equals_a_plain_pipeline_with_the_chosen_penalty() -> None:
    features, labels, groups = data()
    result = linear_probe(features, labels, groups)
    for fold, penalty in enumerate(result.penalties["weak"]):
        held_out = result.folds == fold
        plain = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, tol=1e-6))
        plain.fit(features["weak"][~held_out], labels[~held_out])
        expected = plain.predict_proba(features["weak"][held_out])
        np.testing.assert_allclose(result.probabilities["weak"][held_out], expected, atol=2e-3)


def test_no_patient_is_on_two_sides() -> None:
    features, labels, groups = data()
    folds = linear_probe(features, labels, groups).folds
    for group in range(PATIENTS):
        assert len(np.unique(folds[groups == group])) == 1


def test_patients_that_could_be_recognised_do_not_help() -> None:
    """Labels of the patient, features that name the patient: nothing carries over."""
    rng = np.random.default_rng(0)
    groups = np.arange(N) % PATIENTS
    labels = (groups % 2).astype(np.int64)
    identity = rng.normal(size=(PATIENTS, 12))[groups] + 0.1 * rng.normal(size=(N, 12))
    grouped = linear_probe({"l": identity}, labels, groups).scores["l"].mean()
    leaking = linear_probe({"l": identity}, labels, np.arange(N)).scores["l"].mean()
    assert grouped < 0.8 < 0.95 < leaking


def test_both_arms_get_the_same_folds_and_the_same_search() -> None:
    features, labels, groups = data()
    first = linear_probe(features, labels, groups, seed=3)
    second = linear_probe({"other": features["weak"][:, :4]}, labels, groups, seed=3)
    np.testing.assert_array_equal(first.folds, second.folds)
    again = linear_probe({"weak": features["weak"]}, labels, groups, seed=3)
    np.testing.assert_array_equal(first.scores["weak"], again.scores["weak"])
    other = linear_probe(features, labels, groups, seed=4)
    assert (first.folds != other.folds).any()


def test_the_penalty_follows_the_signal() -> None:
    result = linear_probe(*data(), penalties=(1e-4, 1e-2, 1.0))
    assert set(result.penalties["noise"]) <= {1e-4, 1e-2}
    assert result.penalties["strong"].min() > 1e-4


def test_half_precision_features_of_a_store_are_taken() -> None:
    features, labels, groups = data()
    exact = linear_probe({"weak": features["weak"]}, labels, groups).scores["weak"]
    half = linear_probe({"weak": features["weak"].astype(np.float16)}, labels, groups)
    np.testing.assert_allclose(half.scores["weak"], exact, atol=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": {"a": np.ones((5, 2))}}, "rows do not match: .*'a': 5"),
        ({"features": {}}, "rows do not match"),
        ({"features": {"a": np.full((N, 2), np.nan)}}, "features of layer a are not finite"),
        ({"labels": np.zeros(N, int)}, r"classes \[0\]: a probe needs 0, 1"),
        ({"labels": np.where(np.arange(N) % 2, 2, 0)}, r"classes \[0, 2\]: a probe needs 0, 1"),
        ({"groups": np.arange(N) % 4}, r"class 0 has 4 patient\(s\), 5 folds with 3 inside"),
    ],
)
def test_data_without_a_probe_are_refused(changes: dict[str, Any], message: str) -> None:
    features, labels, groups = data()
    values = {"features": features, "labels": labels, "groups": groups} | changes
    with pytest.raises(AnalysisError, match=message):
        linear_probe(**values)


def test_a_fold_without_a_class_is_refused() -> None:
    """Six patients of the class exist, but four of its rows of five sit in one of them."""
    groups = np.arange(N) % PATIENTS
    labels = np.zeros(N, np.int64)
    labels[groups == 0] = 1
    labels[1:6] = 1  # one row of each of five other patients
    features = {"a": np.random.default_rng(0).normal(size=(N, 3))}
    seeds = range(40)
    with pytest.raises(AnalysisError, match="class 1 is missing in the .* part of one of"):
        for seed in seeds:
            linear_probe(features, labels, groups, n_folds=5, n_inner_folds=4, seed=seed)
