from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm

from histotransfer_pl.analysis.compare import Comparison, delong, paired_bootstrap
from histotransfer_pl.analysis.metrics import METRICS, auroc, evaluate
from histotransfer_pl.analysis.predictions import Floats, Predictions
from histotransfer_pl.errors import AnalysisError
from tests.analysis.simulation import simulate

Test = Callable[[Predictions, Predictions], Comparison]
BOTH = pytest.mark.parametrize("compare", [paired_bootstrap, delong])


def false_positives(compare: Test, n_cohorts: int, n_patients: int) -> float:
    rng = np.random.default_rng(21)
    p_values = [compare(*simulate(rng, n_patients, 0.75)).p_value for _ in range(n_cohorts)]
    return float(np.mean(np.array(p_values) < 0.05))


def quick_bootstrap(first: Predictions, second: Predictions) -> Comparison:
    return paired_bootstrap(first, second, n_resamples=400)


@pytest.mark.parametrize("compare", [quick_bootstrap, delong])
def test_equal_models_are_told_apart_about_as_often_as_promised(compare: Test) -> None:
    # 300 cohorts have a standard error of 1.3 %: three of them either side
    assert 0.01 <= false_positives(compare, 300, 60) <= 0.09


@pytest.mark.slow
@pytest.mark.parametrize("compare", [quick_bootstrap, delong])
def test_false_positives_are_between_4_and_6_percent(compare: Test) -> None:
    assert 0.04 <= false_positives(compare, 3000, 80) <= 0.06


def test_slides_as_units_cry_wolf() -> None:
    """The reason why the patient is the unit."""
    rate = false_positives(lambda first, second: delong(first, second, unit="slide"), 300, 60)
    assert rate > 0.08


def placements(predictions: Predictions) -> tuple[Floats, Floats]:
    """DeLong's structural components, by their definition."""
    positive = predictions.s[predictions.y == 1]
    negative = predictions.s[predictions.y == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return wins.mean(1), wins.mean(0)


def test_delong_by_slide_is_the_published_one() -> None:
    first, second = simulate(np.random.default_rng(2), 40, gap=0.1)
    first = Predictions(first.slide_ids, first.patients, first.y, first.s.round(1))
    of_positives, of_negatives = (
        np.cov(np.stack(pair)) for pair in zip(placements(first), placements(second), strict=True)
    )
    contrast = np.array([1, -1])
    covariance = of_positives / first.y.sum() + of_negatives / (1 - first.y).sum()
    error = np.sqrt(contrast @ covariance @ contrast)
    result = delong(first, second, unit="slide", level=0.9)
    difference = placements(first)[0].mean() - placements(second)[0].mean()
    assert result.difference.estimate == pytest.approx(difference, abs=1e-12)
    # with enough slides Student's t is the normal distribution of the paper
    assert result.degrees_of_freedom > 30
    assert result.p_value == pytest.approx(2 * norm.sf(abs(difference) / error), rel=0.1)
    half = (result.difference.high - result.difference.low) / 2
    assert half == pytest.approx(error * norm.ppf(0.95), rel=0.03)


@pytest.mark.parametrize("folds", [None, 3])
def test_delong_by_patient_agrees_with_the_bootstrap(folds: int | None) -> None:
    first, second = simulate(np.random.default_rng(5), 120, gap=0.08)
    if folds:
        fold = first.patient_index % folds
        first, second = (
            Predictions(p.slide_ids, p.patients, p.y, p.s + 5 * fold, fold) for p in (first, second)
        )
    exact, drawn = delong(first, second), paired_bootstrap(first, second, n_resamples=8000)
    assert drawn.difference.estimate == pytest.approx(exact.difference.estimate, abs=1e-12)
    widths = [found.difference.high - found.difference.low for found in (exact, drawn)]
    assert widths[0] == pytest.approx(widths[1], rel=0.06)


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
    result = paired_bootstrap(pair[0], pair[1], METRICS[name], n_resamples=300)
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
    assert 0 < paired_bootstrap(three_classes(0), three_classes(1), auroc).p_value <= 1
    with pytest.raises(AnalysisError, match="for two classes, here are 3: use paired_bootstrap"):
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
