import numpy as np
import pytest
from sksurv.compare import compare_survival
from sksurv.nonparametric import kaplan_meier_estimator

from histotransfer_pl.analysis.predictions import Floats, Ints
from histotransfer_pl.analysis.survival_curves import kaplan_meier, log_rank
from histotransfer_pl.errors import AnalysisError


def cohort(seed: int = 0) -> tuple[Floats, Ints]:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 3, 90)
    time = np.ceil(rng.exponential(5 + 4 * groups))
    return np.stack([time, rng.random(90) < 0.6], 1).astype(float), groups


def structured(targets: Floats) -> np.ndarray:
    rows = [(bool(event), time) for time, event in targets]
    return np.array(rows, dtype=[("event", bool), ("time", float)])


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_curve_is_that_of_scikit_survival(level: float) -> None:
    targets, _ = cohort()
    y = structured(targets)
    times, survival, limits = kaplan_meier_estimator(
        y["event"], y["time"], conf_level=level, conf_type="log-log"
    )
    found = kaplan_meier(targets, level=level)
    rows = np.isin(times, found.times) & (survival > 0)
    kept = found.survival > 0
    np.testing.assert_allclose(found.survival[kept], survival[rows], rtol=1e-9)
    np.testing.assert_allclose([found.low[kept], found.high[kept]], limits[:, rows], rtol=1e-9)
    at_risk = [(targets[:, 0] >= time).sum() for time in found.times]
    np.testing.assert_array_equal(found.at_risk, at_risk)


def test_a_curve_that_reaches_zero_has_limits() -> None:
    found = kaplan_meier(np.array([[1.0, 1], [2, 1]]))
    assert found.survival.tolist() == [0.5, 0]
    assert (found.low[1], found.high[1]) == (0, 0)
    assert 0 < found.low[0] < 0.5 < found.high[0] < 1


@pytest.mark.parametrize("n_groups", [2, 3])
def test_log_rank_is_that_of_scikit_survival(n_groups: int) -> None:
    targets, groups = cohort(1)
    groups = np.minimum(groups, n_groups - 1)
    statistic, p_value = compare_survival(structured(targets), groups)
    found = log_rank(targets, groups)
    assert found.freedom == n_groups - 1
    np.testing.assert_allclose([found.statistic, found.p_value], [statistic, p_value], rtol=1e-9)


def test_what_has_no_curve_is_refused() -> None:
    targets, groups = cohort()
    with pytest.raises(AnalysisError, match="none of 90 patients has the event"):
        kaplan_meier(targets * [1, 0])
    with pytest.raises(AnalysisError, match="all 90 patients are in one group"):
        log_rank(targets, groups * 0)
