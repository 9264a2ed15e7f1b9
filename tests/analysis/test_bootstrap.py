import numpy as np
import pytest
from scipy import stats

from benchmarks.simulated import simulate
from histotransfer_pl.analysis.bootstrap import (
    Interval,
    bca,
    bootstrap_interval,
    jackknife,
    resample,
)
from histotransfer_pl.analysis.metrics import (
    METRICS,
    Metric,
    auroc,
    balanced_accuracy,
    brier,
    evaluate,
)
from histotransfer_pl.analysis.predictions import Floats, Ints, Predictions
from histotransfer_pl.errors import AnalysisError


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


@pytest.mark.parametrize("tied", [False, True])
def test_bca_equals_scipys(tied: bool) -> None:
    data = np.random.default_rng(1).exponential(size=60)
    data = data.round() if tied else data

    def mean(counts: Floats) -> Floats:
        return np.asarray(counts @ data / counts.sum(1))

    theirs = stats.bootstrap(
        (data,), np.mean, n_resamples=2000, confidence_level=0.9, method="BCa", rng=3
    )
    drawn = theirs.bootstrap_distribution
    assert ((drawn == data.mean()).mean() > 0.02) == tied
    ours = bca(drawn, jackknife(mean, 60), float(data.mean()), stats.norm.ppf(0.95))
    np.testing.assert_allclose(ours, theirs.confidence_interval, rtol=1e-9)
    percentile = np.quantile(drawn, [0.05, 0.95])
    assert abs(percentile - np.array(theirs.confidence_interval)).max() > 0.01


def test_an_acceleration_beyond_the_formula_reaches_the_end_of_the_values() -> None:
    """Six patients and Student's t: the denominator of the upper limit falls below zero."""
    values = np.linspace(0, 1, 501)
    left_out = np.array([1.0, 1, 1, 1, 1, 0])
    low, high = bca(values, left_out, 0.5, 10.0)
    assert (low < 0.5, high) == (True, 1)


def test_the_interval_written_out() -> None:
    """BCa with Student's t, the patients' degrees of freedom and n / (n - 1)."""
    made, _ = simulate(np.random.default_rng(0), 30)
    made = Predictions(made.slide_ids, made.patients, made.y, made.s.round(1))

    def of_patients(counts: Floats) -> Floats:
        return evaluate(auroc, made, counts[:, made.patient_index])

    left_out = jackknife(of_patients, 30)
    squares = (left_out - left_out.mean()) ** 2
    positive = np.array([made.y[made.patient_index == p][0] for p in range(30)]) == 1
    parts = [squares[positive].sum(), squares[~positive].sum()]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 14 + parts[1] ** 2 / 14)
    width = (30 / 29) ** 0.5 * stats.t.ppf(0.95, freedom)
    drawn = resample(of_patients, 30, 400, seed=5)
    expected = bca(drawn, left_out, float(evaluate(auroc, made)[0]), width)
    found = bootstrap_interval(made, auroc, level=0.9, n_resamples=400, seed=5)
    np.testing.assert_allclose((found.low, found.high), expected, rtol=1e-9)
    assert found.method == "BCa"


def nearly_perfect(n: int) -> Predictions:
    """n patients of each class, told apart with probabilities close to 0 and 1."""
    labels = np.repeat([0, 1], n)
    ids = [str(number) for number in range(2 * n)]
    return Predictions(ids, ids, labels, np.abs(labels - np.linspace(1e-4, 2e-4, 2 * n)))


def test_three_patients_do_not_prove_perfection() -> None:
    few = bootstrap_interval(nearly_perfect(3), brier)
    z = stats.norm.ppf(0.975)
    assert few.estimate < 1e-7
    assert few.high == pytest.approx(z**2 / (3 + z**2), abs=1e-4)  # Wilson, none of three
    assert (few.low >= 0, few.method) == (True, "BCa and Wilson")
    assert bootstrap_interval(nearly_perfect(10), brier).method == "BCa"


@pytest.mark.parametrize("name", sorted(METRICS))
def test_no_interval_leaves_the_range(name: str) -> None:
    rng = np.random.default_rng(0)
    for number in range(10):
        made, _ = simulate(rng, 8, 0.9)
        chances = Predictions(made.slide_ids, made.patients, made.y, 1 / (1 + np.exp(-3 * made.s)))
        found = bootstrap_interval(chances, METRICS[name], n_resamples=100, seed=number)
        assert 0 <= found.low <= found.high <= 1
        assert found.low < found.high


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
    with pytest.raises(AnalysisError, match=r"every resample gives 0\.5"):
        bootstrap_interval(made, Metric(constant, 0, 1))


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
