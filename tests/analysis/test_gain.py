from typing import Any

import numpy as np
import pytest

from histotransfer_pl.analysis.gain import knowledge_gain, sweet_spot
from histotransfer_pl.errors import AnalysisError

PRETRAINED = {"stem": [0.6, 0.7], "layer1": [0.9, 0.8]}
RANDOM = {
    "stem": [[0.5, 0.6], [0.6, 0.5], [0.5, 0.6], [0.6, 0.5], [0.55, 0.55]],
    "layer1": [[0.5, 0.7], [0.6, 0.6], [0.7, 0.7], [0.6, 0.6], [0.6, 0.4]],
}


def test_gain_is_the_difference_from_the_mean_random_network() -> None:
    stem, layer1 = knowledge_gain(PRETRAINED, RANDOM, chance=0.5)
    assert (stem.layer, layer1.layer) == ("stem", "layer1")
    assert (stem.pretrained, stem.random) == pytest.approx((0.65, 0.55))
    assert (stem.gain, layer1.gain) == pytest.approx((0.1, 0.25))
    assert (stem.increment, layer1.increment) == pytest.approx((0.1, 0.15))
    assert (stem.n_folds, stem.n_seeds, stem.chance) == (2, 5, 0.5)


def test_spread_over_folds_and_over_seeds() -> None:
    layer1 = knowledge_gain(PRETRAINED, RANDOM)[1]
    by_fold = [0.9 - 0.6, 0.8 - 0.6]
    by_seed = [0.6, 0.6, 0.7, 0.6, 0.5]
    fold_sd, seed_sd = np.std(by_fold, ddof=1), np.std(by_seed, ddof=1)
    assert (layer1.fold_sd, layer1.seed_sd) == pytest.approx((fold_sd, seed_sd))
    expected = np.sqrt(fold_sd**2 / 2 + seed_sd**2 / 5)
    assert layer1.standard_error == pytest.approx(expected)


def test_a_pretrained_network_that_is_a_random_one_gains_nothing() -> None:
    rng = np.random.default_rng(0)
    arms = rng.normal(0.6, 0.05, (3000, 6, 5))  # six equal networks, five folds
    gains, errors = [], []
    for networks in arms:
        point = knowledge_gain({"l": networks[0]}, {"l": networks[1:]})[0]
        gains.append(point.gain)
        errors.append(point.standard_error)
    assert np.mean(gains) == pytest.approx(0, abs=0.002)
    # with independent folds the standard error is that of the gain, seeds counted a second time
    assert np.std(gains) <= np.sqrt(np.mean(np.square(errors))) <= 1.2 * np.std(gains)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer1": RANDOM["layer1"][:4]}, "layer1: 4 random networks, at least 5"),
        ({"layer1": [[0.5]] * 5}, r"layer1: scores \(2,\) pretrained and \(5, 1\) random"),
        ({"layer1": [[0.5, np.nan]] * 5}, "layer1: scores that are not finite"),
        ({"layer9": RANDOM["layer1"]}, "probe the same layers of both"),
    ],
)
def test_arms_that_do_not_match_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        knowledge_gain(PRETRAINED, RANDOM | changes)


SCORES = {
    "stem": [0.60, 0.62, 0.61, 0.59],
    "layer1": [0.80, 0.84, 0.78, 0.82],  # mean 0.81
    "layer2": [0.78, 0.86, 0.84, 0.80],  # mean 0.82, the best, standard error 0.018
    "layer3": [0.81, 0.82, 0.80, 0.81],
}


def test_sweet_spot_is_the_shallowest_within_one_standard_error() -> None:
    assert sweet_spot(SCORES) == "layer1"


def test_a_clear_best_is_its_own_sweet_spot() -> None:
    assert sweet_spot(SCORES | {"layer3": [0.95, 0.95, 0.96, 0.94]}) == "layer3"


def test_the_cost_may_be_another_than_depth() -> None:
    cost = {"stem": 1.0, "layer1": 9.0, "layer2": 8.0, "layer3": 2.0}
    assert sweet_spot(SCORES, cost) == "layer3"


def test_scores_of_folds_and_seeds_are_all_counted() -> None:
    assert sweet_spot({layer: [scores, scores] for layer, scores in SCORES.items()}) == "layer1"


@pytest.mark.parametrize(
    ("scores", "cost", "message"),
    [
        ({"stem": [0.6]}, None, r"fewer than two scores: \['stem'\]"),
        ({}, None, "fewer than two scores"),
        (SCORES, {"stem": 1.0}, "no cost of layer1, layer2, layer3"),
    ],
)
def test_a_sweet_spot_needs_spread_and_costs(
    scores: dict[str, Any], cost: dict[str, float] | None, message: str
) -> None:
    with pytest.raises(AnalysisError, match=message):
        sweet_spot(scores, cost)
