import numpy as np
import pytest
from scipy import stats

from histotransfer_pl.analysis.bootstrap import (
    Interval,
    bca,
    bootstrap_interval,
    jackknife,
    resample,
)
from histotransfer_pl.analysis.metrics import METRICS, Metric, auroc, balanced_accuracy, evaluate
from histotransfer_pl.analysis.predictions import Floats, Ints, Predictions
from histotransfer_pl.errors import AnalysisError
from tests.analysis.simulation import simulate


def coverage(n_cohorts: int, n_patients: int, area: float, prevalence: float) -> float:
    rng = np.random.default_rng(8)
    held = 0
    for number in range(n_cohorts):
        made, _ = simulate(rng, n_patients, area, prevalence=prevalence)
        interval = bootstrap_interval(made, auroc, n_resamples=600, seed=number)
        held += interval.low <= area <= interval.high
    return held / n_cohorts


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    # 250 cohorts have a standard error of 1.4 %: three of them either side
    assert 0.91 <= coverage(250, 40, 0.85, 0.5) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_patients", "area", "prevalence"), [(40, 0.85, 0.5), (60, 0.9, 0.5), (80, 0.8, 0.3)]
)
def test_coverage_is_between_93_and_97_percent(
    n_patients: int, area: float, prevalence: float
) -> None:
    assert 0.93 <= coverage(2000, n_patients, area, prevalence) <= 0.97


def test_bca_equals_scipys() -> None:
    data = np.random.default_rng(1).exponential(size=60)

    def mean(counts: Floats) -> Floats:
        return np.asarray(counts @ data / counts.sum(1))

    theirs = stats.bootstrap(
        (data,), np.mean, n_resamples=2000, confidence_level=0.9, method="BCa", rng=3
    )
    left_out = jackknife(mean, 60)
    ours = bca(theirs.bootstrap_distribution, left_out, float(data.mean()), 0.9)
    np.testing.assert_allclose(ours, theirs.confidence_interval, rtol=1e-9)
    percentile = np.quantile(theirs.bootstrap_distribution, [0.05, 0.95])
    assert abs(percentile - np.array(theirs.confidence_interval)).max() > 0.02


def test_resampling_gives_scipys_distribution() -> None:
    data = np.random.default_rng(1).exponential(size=60)
    ours = resample(lambda counts: counts @ data / counts.sum(1), 60, 4000, seed=2)
    theirs = stats.bootstrap((data,), np.mean, n_resamples=4000, rng=3).bootstrap_distribution
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01
    assert ours.std() == pytest.approx(data.std() / 60**0.5, rel=0.05)


def test_jackknife_leaves_each_patient_out() -> None:
    data = np.array([1.0, 2, 6])
    left_out = jackknife(lambda counts: counts @ data / counts.sum(1), 3)
    np.testing.assert_allclose(left_out, [4, 3.5, 1.5])


def test_patients_are_drawn_whole() -> None:
    """Copies of every slide under the same patient add nothing."""
    made, _ = simulate(np.random.default_rng(0), 30)
    ids = [f"{name}{copy}" for copy in "abc" for name in made.slide_ids]
    copies = Predictions(ids, list(made.patients) * 3, np.tile(made.y, 3), np.tile(made.s, 3))
    once, thrice = bootstrap_interval(made, auroc), bootstrap_interval(copies, auroc)
    assert (once.n_slides, thrice.n_slides) == (made.n_slides, 3 * made.n_slides)
    assert (once.low, once.high) == pytest.approx((thrice.low, thrice.high), abs=1e-12)
    own_patients = Predictions(ids, ids, np.tile(made.y, 3), np.tile(made.s, 3))
    wrong = bootstrap_interval(own_patients, auroc)
    assert wrong.high - wrong.low < 0.7 * (once.high - once.low)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_gets_an_interval_around_its_estimate(name: str) -> None:
    made, _ = simulate(np.random.default_rng(6), 40, 0.75)
    chances = Predictions(made.slide_ids, made.patients, made.y, 1 / (1 + np.exp(-made.s)))
    interval = bootstrap_interval(chances, METRICS[name], n_resamples=500)
    assert interval.estimate == evaluate(METRICS[name], chances)[0]
    assert interval.low < interval.high
    if name != "ece":  # biased upwards on resamples, so BCa may shift beyond the estimate
        assert interval.low < interval.estimate < interval.high


def test_the_same_seed_gives_the_same_interval() -> None:
    made, _ = simulate(np.random.default_rng(0), 30)
    assert bootstrap_interval(made, auroc, seed=1) == bootstrap_interval(made, auroc, seed=1)
    assert bootstrap_interval(made, auroc, seed=1) != bootstrap_interval(made, auroc, seed=2)


def test_a_higher_level_is_wider() -> None:
    made, _ = simulate(np.random.default_rng(0), 30)
    wide, narrow = (bootstrap_interval(made, auroc, level=level) for level in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_resamples_without_a_class_are_drawn_again() -> None:
    """Three positive patients of 40 are absent from one resample in twenty."""
    made, _ = simulate(np.random.default_rng(3), 40, prevalence=0.075)
    interval = bootstrap_interval(made, auroc, n_resamples=1000)
    assert np.isfinite([interval.low, interval.high]).all()


def test_perfect_predictions_are_not_certain() -> None:
    labels = np.array([0] * 8 + [1] * 12)
    ids = [str(number) for number in range(20)]
    perfect = Predictions(ids, ids, labels, labels + np.linspace(0, 0.4, 20))
    interval = bootstrap_interval(perfect, auroc)
    wilson = 1 / (1 + stats.norm.ppf(0.975) ** 2 / 8)  # eight of eight
    assert (interval.estimate, interval.high, interval.method) == (1, 1, "Wilson")
    assert interval.low == pytest.approx(wilson)
    worst = Predictions(ids, ids, labels, -perfect.s)
    mirrored = bootstrap_interval(worst, auroc)
    assert (mirrored.low, mirrored.high) == pytest.approx((0, 1 - wilson), abs=1e-12)


def test_a_metric_that_never_changes_has_no_interval() -> None:
    def constant(labels: Ints, scores: Floats, weights: Floats, folds: Ints) -> Floats:
        return np.full(len(weights), 0.5)

    made, _ = simulate(np.random.default_rng(0), 30)
    metric: Metric = constant
    with pytest.raises(AnalysisError, match=r"every resample gives 0\.5"):
        bootstrap_interval(made, metric)


def test_mostly_undefined_resamples_are_refused() -> None:
    def undefined(counts: Floats) -> Floats:
        return np.where(counts[:, 0] > 1, 1.0, np.nan)

    with pytest.raises(AnalysisError, match=r"resamples of 9 patients lack a class: too few"):
        resample(undefined, 9, 100, seed=0)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1] * 6, np.arange(6.0), "all 6 slides are of class 1"),
        ([0, 0, 0, 1, 1, 1], [0.3] * 6, "constant over all 6 slides"),
        ([0, 0, 0, 0, 1, 1], np.arange(6.0), r"class 1 has 2 patient\(s\)"),
    ],
)
def test_data_without_an_interval_are_refused(
    labels: list[int], scores: Floats, message: str
) -> None:
    with pytest.raises(AnalysisError, match=message):
        bootstrap_interval(Predictions(list("abcdef"), list("abcdef"), labels, scores), auroc)


def test_large_cohorts_are_evaluated_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = simulate(np.random.default_rng(0), 30)
    whole = bootstrap_interval(made, balanced_accuracy, n_resamples=100)
    monkeypatch.setattr("histotransfer_pl.analysis.bootstrap._BLOCK", 7 * made.n_slides)
    assert bootstrap_interval(made, balanced_accuracy, n_resamples=100) == whole


def test_an_interval_reads_well() -> None:
    assert str(Interval(0.8, 0.7, 0.875, 0.95, 30, 60)) == "0.800 [0.700, 0.875] (95 %)"
