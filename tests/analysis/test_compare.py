from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from benchmarks.simulated import simulate
from histotransfer_pl.analysis.compare import Comparison, delong, paired_test
from histotransfer_pl.analysis.metrics import METRICS, accuracy, auroc, evaluate
from histotransfer_pl.analysis.predictions import Floats, Predictions
from histotransfer_pl.analysis.values import mean_absolute_error
from histotransfer_pl.errors import AnalysisError

Test = Callable[[Predictions, Predictions], Comparison]
BOTH = pytest.mark.parametrize("compare", [paired_test, delong])


def false_positives(compare: Test, n_cohorts: int, n_patients: int) -> float:
    rng = np.random.default_rng(21)
    p_values = [compare(*simulate(rng, n_patients, 0.75)).p_value for _ in range(n_cohorts)]
    return float(np.mean(np.array(p_values) < 0.05))


@pytest.mark.parametrize("compare", [paired_test, delong])
def test_equal_models_are_told_apart_about_as_often_as_promised(compare: Test) -> None:
    # 300 cohorts have a standard error of 1.3 %: three of them either side
    assert 0.01 <= false_positives(compare, 300, 60) <= 0.09


def test_slides_as_units_reject_true_null_hypotheses() -> None:
    """The reason why the patient is the unit."""
    rate = false_positives(lambda first, second: delong(first, second, unit="slide"), 300, 60)
    assert rate > 0.08


def rounded(predictions: Predictions) -> Predictions:
    """With ties."""
    return Predictions(
        predictions.slide_ids, predictions.patients, predictions.y, predictions.s.round(1)
    )


def placements(predictions: Predictions) -> tuple[Floats, Floats]:
    """DeLong's structural components, by their definition."""
    positive = predictions.s[predictions.y == 1]
    negative = predictions.s[predictions.y == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return wins.mean(1), wins.mean(0)


def test_delong_by_slide_is_welchs_test_of_the_placements() -> None:
    """Both have the variance of two independent means, and Satterthwaite's degrees of freedom."""
    first, second = map(rounded, simulate(np.random.default_rng(2), 12, gap=0.1))
    of_first, of_second = placements(first), placements(second)
    positives, negatives = of_first[0] - of_second[0], of_first[1] - of_second[1]
    welch = stats.ttest_ind(positives, -negatives, equal_var=False)  # of twice the difference
    difference = positives.mean()
    error = 2 * difference / welch.statistic
    result = delong(first, second, unit="slide", level=0.9)
    half = error * stats.t.ppf(0.95, welch.df)
    expected = [difference, welch.df, difference - half, difference + half]
    interval = result.difference
    found = [interval.estimate, result.degrees_of_freedom, interval.low, interval.high]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    p_value = 2 * stats.t.sf(abs(difference) / error, welch.df)
    np.testing.assert_allclose(result.p_value, p_value, rtol=1e-9)


def with_mixed_patients(rng: np.random.Generator) -> tuple[Predictions, Predictions]:
    """Some patients have slides of both classes."""
    labels = rng.integers(0, 2, 60)
    patients = np.where(labels == 1, np.arange(60) // 3, np.arange(60) // 3 + 4).astype(str)
    ids = [str(number) for number in range(60)]
    scores = [(labels + rng.normal(size=60)).round(1) for _ in range(2)]
    return Predictions(ids, patients, labels, scores[0]), Predictions(
        ids, patients, labels, scores[1]
    )


def obuchowski(first: Predictions, second: Predictions) -> tuple[float, float]:
    """Variance of the difference (Obuchowski 1997, equations 3 to 5), pair by pair; its freedom.

    Pairs are of one fold. With one fold these are the published sums.
    """
    pulls: dict[tuple[int, int], float] = {}  # of a patient through its slides of a class
    pairs = 0
    for model, sign in ((first, 1), (second, -1)):
        area = float(evaluate(auroc, model)[0])
        pairs = 0
        for i in np.flatnonzero(model.y == 1):
            for j in np.flatnonzero(model.y == 0):
                if model.fold_index[i] != model.fold_index[j]:
                    continue
                pairs += 1
                won = float(model.s[i] > model.s[j]) + 0.5 * float(model.s[i] == model.s[j])
                for row, label in ((i, 1), (j, 0)):
                    key = (int(model.patient_index[row]), label)
                    pulls[key] = pulls.get(key, 0) + sign * (won - area)
    sums, counts = [], []
    for label in (1, 0):
        own = np.array([pull for (_, of), pull in pulls.items() if of == label]) / pairs
        counts.append(len(own))
        sums.append(len(own) / (len(own) - 1) * float((own**2).sum()))
    n = first.n_patients
    shared = sum(pulls.get((k, 1), 0) * pulls.get((k, 0), 0) for k in range(n)) / pairs**2
    freedom = sum(sums) ** 2 / sum(s**2 / (c - 1) for s, c in zip(sums, counts, strict=True))
    return sum(sums) + 2 * n / (n - 1) * shared, freedom


@pytest.mark.parametrize("folds", [1, 3])
def test_delong_by_patient_is_the_published_one(folds: int) -> None:
    first, second = with_mixed_patients(np.random.default_rng(5))
    fold = first.patient_index % folds
    first, second = (
        Predictions(p.slide_ids, p.patients, p.y, p.s + 5 * fold, fold) for p in (first, second)
    )
    variance, freedom = obuchowski(first, second)
    result = delong(first, second)
    half = (result.difference.high - result.difference.low) / 2
    np.testing.assert_allclose(result.degrees_of_freedom, freedom, rtol=1e-9)
    np.testing.assert_allclose(half, variance**0.5 * stats.t.ppf(0.975, freedom), rtol=1e-9)


def test_the_paired_test_written_out() -> None:
    """Standard error, degrees of freedom by groups of patients, Student's t: each by hand."""
    first, second = with_mixed_patients(np.random.default_rng(7))
    n = first.n_patients
    ours, theirs = (((p.s >= 0.5) == p.y).astype(float) for p in (first, second))
    gain = ours - theirs - (ours - theirs).mean()  # of a share of right slides, linear
    groups: dict[frozenset[int], list[float]] = {}
    for patient in range(n):
        rows = first.patient_index == patient
        carried = frozenset(first.y[rows].tolist())
        groups.setdefault(carried, []).append(gain[rows].sum() / first.n_slides)
    assert len(groups) == 3
    parts = [(sum(pull**2 for pull in pulls), len(pulls) - 1) for pulls in groups.values()]
    freedom = sum(v for v, _ in parts) ** 2 / sum(v**2 / df for v, df in parts)
    error = np.sqrt(n / (n - 1) * sum(v for v, _ in parts))
    result = paired_test(first, second, accuracy)
    half = error * stats.t.ppf(0.975, freedom)
    np.testing.assert_allclose(result.degrees_of_freedom, freedom, rtol=1e-9)
    np.testing.assert_allclose(result.difference.high - result.difference.low, 2 * half, rtol=1e-9)
    ratio = abs(result.difference.estimate) / error
    np.testing.assert_allclose(result.p_value, 2 * stats.t.sf(ratio, freedom), rtol=1e-9)


def test_of_one_slide_per_patient_and_a_mean_it_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    ids = [str(number) for number in range(10)]
    values = rng.normal(size=10)
    first, second = (
        Predictions(ids, ids, values, values + rng.normal(size=10), task="regression")
        for _ in range(2)
    )
    result = paired_test(first, second, mean_absolute_error)
    t_test = stats.ttest_rel(abs(first.s - values), abs(second.s - values))
    interval = t_test.confidence_interval()
    np.testing.assert_allclose(result.p_value, t_test.pvalue, rtol=1e-9)
    found = (result.difference.low, result.difference.high)
    np.testing.assert_allclose(found, interval, rtol=1e-9)


def test_of_an_auroc_it_is_delongs_but_for_the_size_of_the_classes() -> None:
    """Patients of one class each: DeLong has n / (n - 1) per class, this over all."""
    first, second = simulate(np.random.default_rng(3), 40, gap=0.1)
    error = [
        (found.difference.high - found.difference.low)
        / stats.t.ppf(0.975, found.degrees_of_freedom)
        for found in (paired_test(first, second), delong(first, second))
    ]
    # 20 patients of each class
    np.testing.assert_allclose(error[0], error[1] * np.sqrt(40 / 39 / (20 / 19)), rtol=1e-9)


def test_a_difference_stays_possible() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    first = Predictions(list("abcdef"), list("abcdef"), labels, [0.1, 0.2, 0.6, 0.5, 0.8, 0.9])
    second = Predictions(list("abcdef"), list("abcdef"), labels, [0.5, 0.1, 0.9, 0.2, 0.8, 0.3])
    for compare in (delong, paired_test):
        result = compare(first, second)
        assert result.difference.estimate > 0.3
        assert result.difference.high == 1
        assert -1 <= result.difference.low < 0
    swapped = delong(second, first)
    assert swapped.difference.low == -1


@BOTH
def test_a_real_difference_is_found_and_its_sign_is_first_minus_second(compare: Test) -> None:
    first, second = simulate(np.random.default_rng(4), 150, 0.9, gap=0.25)
    result = compare(first, second)
    assert result.p_value < 0.001
    assert 0 < result.difference.low < result.difference.high
    assert result.first - result.second == pytest.approx(result.difference.estimate)
    swapped = compare(second, first)
    assert swapped.p_value == pytest.approx(result.p_value)
    assert swapped.difference.high == pytest.approx(-result.difference.low)


@BOTH
def test_the_order_of_slides_does_not_matter(compare: Test) -> None:
    first, second = simulate(np.random.default_rng(4))
    order = np.random.default_rng(0).permutation(second.n_slides)
    assert compare(first, second.rows(order)) == compare(first, second)


@BOTH
def test_the_same_ranking_is_no_difference(compare: Test) -> None:
    first, _ = simulate(np.random.default_rng(4))
    monotone = Predictions(first.slide_ids, first.patients, first.y, np.exp(first.s))
    result = compare(first, monotone)
    assert (result.p_value, result.difference.low, result.difference.high) == (1, 0, 0)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_any_metric_can_be_compared(name: str) -> None:
    pair = [
        Predictions(p.slide_ids, p.patients, p.y, 1 / (1 + np.exp(-p.s)))
        for p in simulate(np.random.default_rng(9), 60)
    ]
    result = paired_test(pair[0], pair[1], METRICS[name])
    values = [evaluate(METRICS[name], made)[0] for made in pair]
    assert [result.first, result.second] == values
    assert 0 < result.p_value < 1


def three_classes(seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % 3
    scores = np.exp(rng.normal(size=(60, 3)) + np.eye(3)[labels])
    ids = [str(number) for number in range(60)]
    return Predictions(ids, ids, labels, scores / scores.sum(1, keepdims=True))


def test_more_classes_are_for_the_bootstrap() -> None:
    assert 0 < paired_test(three_classes(0), three_classes(1), auroc).p_value <= 1
    with pytest.raises(AnalysisError, match="for two classes, here are 3 .*: use paired_test"):
        delong(three_classes(0), three_classes(1))


@BOTH
def test_other_slides_or_labels_are_refused(compare: Test) -> None:
    first, second = simulate(np.random.default_rng(4))
    with pytest.raises(AnalysisError, match="'slide0' only in the first, none only in the second"):
        compare(first, second.rows(np.arange(1, second.n_slides)))
    labels = second.y.copy()
    labels[3] = 1 - labels[3]
    with pytest.raises(AnalysisError, match=r"1 slide.* differ in their label: 'slide3'"):
        compare(first, Predictions(second.slide_ids, second.patients, labels, second.s))


@BOTH
def test_constant_predictions_are_refused(compare: Test) -> None:
    first, _ = simulate(np.random.default_rng(4))
    flat = Predictions(first.slide_ids, first.patients, first.y, np.zeros(first.n_slides))
    with pytest.raises(AnalysisError, match="constant over all"):
        compare(first, flat)


@BOTH
def test_a_difference_without_spread_is_refused(compare: Test) -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    right = Predictions(list("abcdef"), list("abcdef"), labels, labels + 0.0)
    wrong = Predictions(list("abcdef"), list("abcdef"), labels, 1.0 - labels)
    with pytest.raises(AnalysisError, match="differ by 1 on every resample alike"):
        compare(right, wrong)


def test_what_is_known_of_one_unit_is_not_taken_for_the_other() -> None:
    by_slide = delong(*simulate(np.random.default_rng(3)), unit="slide")
    pair = simulate(np.random.default_rng(3))
    assert delong(*pair, unit="patient") != by_slide
    assert delong(*pair, unit="slide") == by_slide
