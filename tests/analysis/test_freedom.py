import numpy as np
import pytest
from scipy import stats

from histotransfer_pl.analysis.freedom import reach, satterthwaite


def test_two_groups_are_welchs_test() -> None:
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=5), rng.normal(scale=3, size=9)]
    pulls = [(s - s.mean()) / np.sqrt(len(s) * (len(s) - 1)) for s in samples]
    found = satterthwaite(np.concatenate(pulls), np.repeat([0, 1], [5, 9]))
    expected = stats.ttest_ind(*samples, equal_var=False).df
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_one_group_has_its_size_less_one() -> None:
    assert satterthwaite(np.array([1.0, -1, 2, -2]), np.zeros(4, np.int64)) == pytest.approx(3)


def test_a_group_of_one_and_no_spread_have_at_least_one() -> None:
    assert satterthwaite(np.array([1.0, 0, 0]), np.array([0, 1, 1])) == 1
    assert satterthwaite(np.zeros(5), np.array([0, 0, 0, 1, 1])) == 1


def test_the_reach_of_one_group() -> None:
    left_out = np.random.default_rng(1).normal(size=20)
    expected = np.sqrt(20 / 19) * stats.t.ppf(0.95, 19)
    np.testing.assert_allclose(reach(left_out, np.zeros(20, np.int64), 0.9), expected, rtol=1e-9)
