from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from histotransfer_pl.analysis.predictions import Floats, Ints
from histotransfer_pl.analysis.probe import INVERSE_PENALTIES, ProbeResult, linear_probe
from histotransfer_pl.errors import AnalysisError

N, PATIENTS = 160, 16


def data(n_classes: int = 2, seed: int = 0) -> tuple[dict[str, Floats], Ints, Ints]:
    rng = np.random.default_rng(seed)
    groups = np.arange(N) % PATIENTS
    labels = rng.integers(0, n_classes, N)
    noise = rng.normal(size=(N, 12))
    signal = np.zeros((N, 12))
    signal[:, :n_classes] = np.eye(n_classes)[labels]
    return {"noise": noise, "weak": noise + signal, "strong": noise + 4 * signal}, labels, groups


@pytest.fixture(scope="module")
def result() -> ProbeResult:
    return linear_probe(*data())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_more_signal_scores_more_and_none_scores_chance(n_classes: int) -> None:
    result = linear_probe(*data(n_classes), penalties=[0.01])
    means = [float(result.scores[layer].mean()) for layer in ("noise", "weak", "strong")]
    assert means[0] == pytest.approx(0.5, abs=0.1)
    assert means[0] + 0.1 < means[1] < means[2]
    assert means[2] > 0.97
    assert (result.chance, result.n_groups) == (0.5, PATIENTS)


def test_scores_are_those_of_the_held_out_probabilities() -> None:
    features, labels, groups = data()
    result = linear_probe(features, labels, groups, n_folds=4, penalties=[0.01])
    for layer, scores in result.scores.items():
        expected = [
            roc_auc_score(
                labels[result.folds == fold], result.probabilities[layer][result.folds == fold, 1]
            )
            for fold in range(4)
        ]
        np.testing.assert_allclose(scores, expected)
    balanced = linear_probe(
        features, labels, groups, n_folds=4, penalties=[0.01], score="balanced_accuracy"
    )
    rows = balanced.folds == 2
    decided = balanced.probabilities["weak"][rows].argmax(1)
    assert balanced.scores["weak"][2] == balanced_accuracy_score(labels[rows], decided)
    assert balanced.chance == 0.5


def test_equals_a_plain_pipeline_with_the_chosen_penalty(result: ProbeResult) -> None:
    features, labels, _ = data()
    for fold, penalty in enumerate(result.penalties["weak"]):
        held_out = result.folds == fold
        plain = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, tol=1e-6))
        plain.fit(features["weak"][~held_out], labels[~held_out])
        expected = plain.predict_proba(features["weak"][held_out])
        np.testing.assert_allclose(result.probabilities["weak"][held_out], expected, atol=2e-3)


def test_the_penalty_is_chosen_within_the_training_part(result: ProbeResult) -> None:
    """What the outer test fold holds can not move its penalty, however strongly it speaks."""
    features, labels, groups = data()
    strong = (4 * np.eye(12)[labels] * 10).astype(float)  # the test rows ask for no penalty
    against = strong[:, [1, 0, *range(2, 12)]]  # and here for the strongest
    for fold in range(3):
        held_out = (result.folds == fold)[:, None]
        for spoken in (strong, against):
            changed = np.where(held_out, spoken, features["weak"])
            found = linear_probe({"weak": changed}, labels, groups)
            np.testing.assert_array_equal(found.folds, result.folds)
            assert found.penalties["weak"][fold] == result.penalties["weak"][fold]


def test_the_penalties_are_those_of_a_nested_grid_search(result: ProbeResult) -> None:
    features, labels, groups = data()
    for fold, penalty in enumerate(result.penalties["weak"]):
        rows = np.flatnonzero(result.folds != fold)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
            {"logisticregression__C": INVERSE_PENALTIES},
            scoring="neg_log_loss",
            cv=StratifiedGroupKFold(3, shuffle=True, random_state=0),
        )
        search.fit(features["weak"][rows], labels[rows], groups=groups[rows])
        assert search.best_params_["logisticregression__C"] == penalty


def test_a_constant_feature_adds_nothing(result: ProbeResult) -> None:
    features, labels, groups = data()
    wider = np.concatenate([features["weak"], np.full((N, 2), 7.3)], axis=1)
    found = linear_probe({"weak": wider}, labels, groups)
    np.testing.assert_allclose(found.probabilities["weak"], result.probabilities["weak"], atol=1e-4)


def test_no_patient_is_on_two_sides(result: ProbeResult) -> None:
    _, _, groups = data()
    for group in range(PATIENTS):
        assert len(np.unique(result.folds[groups == group])) == 1


def test_patients_that_could_be_recognised_do_not_help() -> None:
    """Labels of the patient, features that name the patient: nothing carries over."""
    rng = np.random.default_rng(0)
    groups = np.arange(N) % PATIENTS
    labels = (groups % 2).astype(np.int64)
    identity = rng.normal(size=(PATIENTS, 12))[groups] + 0.1 * rng.normal(size=(N, 12))
    by_patient = linear_probe({"l": identity}, labels, groups, penalties=[0.1])
    leaking = linear_probe({"l": identity}, labels, np.arange(N), penalties=[0.1])
    assert by_patient.scores["l"].mean() < 0.8 < 0.95 < leaking.scores["l"].mean()


def test_both_arms_get_the_same_folds_and_the_same_search(result: ProbeResult) -> None:
    features, labels, groups = data()
    alone = linear_probe({"weak": features["weak"]}, labels, groups)
    np.testing.assert_array_equal(result.folds, alone.folds)
    np.testing.assert_array_equal(result.scores["weak"], alone.scores["weak"])
    np.testing.assert_array_equal(result.penalties["weak"], alone.penalties["weak"])
    other = linear_probe({"weak": features["weak"]}, labels, groups, seed=4, penalties=[0.01])
    assert (result.folds != other.folds).any()


def test_the_penalty_follows_the_signal(result: ProbeResult) -> None:
    # noise is best ignored, a strong signal is best used
    assert np.median(result.penalties["noise"]) < np.median(result.penalties["strong"])


def test_half_precision_features_of_a_store_are_taken(result: ProbeResult) -> None:
    features, labels, groups = data()
    half = linear_probe({"weak": features["weak"].astype(np.float16)}, labels, groups)
    np.testing.assert_allclose(half.scores["weak"], result.scores["weak"], atol=0.01)


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
    values: dict[str, Any] = {"features": features, "labels": labels, "groups": groups}
    with pytest.raises(AnalysisError, match=message):
        linear_probe(**(values | changes))


def test_a_fold_without_a_class_is_refused() -> None:
    """Five patients carry the class, yet their unequal sizes leave one fold of five without."""
    rows_and_positives = [(9, 6), (1, 1), (10, 6), (7, 0), (3, 1), (15, 10), (15, 0)]
    groups = np.repeat(np.arange(7), [rows for rows, _ in rows_and_positives])
    labels = np.concatenate(
        [[1] * positives + [0] * (rows - positives) for rows, positives in rows_and_positives]
    )
    features = {"a": np.random.default_rng(0).normal(size=(len(labels), 3))}
    with pytest.raises(AnalysisError, match="class 1 is missing in the held-out part of one of 5"):
        linear_probe(features, labels, groups, n_folds=5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([20] * 4, r"4 patient\(s\), 3 folds with 3 inside need at least 5"),
        ([100, 100, 4, 4, 4], r"a part has 2 patient\(s\) for 3 folds"),
    ],
)
def test_a_training_part_with_too_few_patients_for_the_inner_folds_is_refused(
    rows: list[int], message: str
) -> None:
    groups = np.repeat(np.arange(len(rows)), rows)
    labels = np.arange(len(groups)) % 2
    features = {"a": np.random.default_rng(0).normal(size=(len(labels), 3))}
    with pytest.raises(AnalysisError, match=message):
        linear_probe(features, labels, groups, n_folds=3, n_inner_folds=3)
