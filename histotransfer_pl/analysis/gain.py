"""Knowledge gain per layer: what pretraining adds over the same network with random weights.

After Li and Plataniotis (PLoS ONE 2020), whose exact formula is not public; ours: for layer l and
one fixed probe, G(l) = score of the pretrained network - mean score of at least five random ones,
on the same folds, and g(l) = G(l) - G(l - 1).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from histotransfer_pl.analysis.predictions import Floats
from histotransfer_pl.errors import AnalysisError

MIN_SEEDS = 5
"""Fewest random networks: one alone may be lucky."""


@dataclass(frozen=True)
class LayerGain:
    """One point of the knowledge-gain curve."""

    layer: str
    pretrained: float  # mean held-out score over the folds
    random: float  # mean over seeds and folds
    chance: float
    gain: float  # G(l)
    increment: float  # g(l); for the first layer G itself
    fold_sd: float  # spread of the gain over the folds
    seed_sd: float  # spread over the random networks of their mean over the folds
    standard_error: float  # of the gain, from both
    n_folds: int
    n_seeds: int


def knowledge_gain(
    pretrained: Mapping[str, ArrayLike],
    random: Mapping[str, ArrayLike],
    *,
    chance: float = 0.5,
    min_seeds: int = MIN_SEEDS,
) -> list[LayerGain]:
    """Gain of each layer in order of depth.

    The standard error takes folds and random seeds as independent sources. Folds share training
    data, so it is a lower bound: read it as a spread, not as a test.

    Args:
        pretrained: Layer name to scores (folds,), from shallow to deep.
        random: Layer name to scores (seeds, folds) of random networks, on the same folds.
        chance: Score of guessing, kept beside every point.
        min_seeds: Fewest random networks to accept.

    Raises:
        AnalysisError: Other layers or folds in the two arms, too few seeds or folds, or scores
            that are not finite.
    """
    if list(pretrained) != list(random) or not pretrained:
        raise AnalysisError(
            f"layers {list(pretrained)} pretrained, {list(random)} random: "
            "probe the same layers of both, from shallow to deep"
        )
    curve: list[LayerGain] = []
    previous = 0.0
    for layer in pretrained:
        known, guesses = _arms(layer, pretrained[layer], random[layer], min_seeds)
        by_fold = known - guesses.mean(0)  # (folds,)
        by_seed = guesses.mean(1)  # (seeds,)
        n_seeds, n_folds = guesses.shape
        gain = float(by_fold.mean())
        fold_sd, seed_sd = float(by_fold.std(ddof=1)), float(by_seed.std(ddof=1))
        curve.append(
            LayerGain(
                layer=layer,
                pretrained=float(known.mean()),
                random=float(guesses.mean()),
                chance=chance,
                gain=gain,
                increment=gain - previous,
                fold_sd=fold_sd,
                seed_sd=seed_sd,
                standard_error=float(np.hypot(fold_sd / n_folds**0.5, seed_sd / n_seeds**0.5)),
                n_folds=n_folds,
                n_seeds=n_seeds,
            )
        )
        previous = gain
    return curve


def sweet_spot(scores: Mapping[str, ArrayLike], cost: Mapping[str, float] | None = None) -> str:
    """The cheapest layer that is as good as the best within one standard error of it.

    The one-standard-error rule of Breiman et al. (1984).

    Args:
        scores: Layer name to scores (folds,), or of folds times seeds, from shallow to deep.
        cost: Layer name to parameters, MACs or time; without it depth is the cost.

    Raises:
        AnalysisError: Fewer than two scores of a layer, or a layer without a cost.
    """
    values = {layer: np.ravel(np.asarray(score, np.float64)) for layer, score in scores.items()}
    few = [layer for layer, score in values.items() if len(score) < 2]
    if few or not values:
        raise AnalysisError(f"layers with fewer than two scores: {few}; score two folds or more")
    costs = dict(zip(values, map(float, range(len(values))), strict=True)) if cost is None else cost
    unknown = [layer for layer in values if layer not in costs]
    if unknown:
        raise AnalysisError(f"no cost of {', '.join(unknown)}: measure every layer")
    best = max(values, key=lambda layer: float(values[layer].mean()))
    error = values[best].std(ddof=1) / len(values[best]) ** 0.5
    threshold = values[best].mean() - error
    return min(
        (layer for layer, score in values.items() if score.mean() >= threshold),
        key=lambda layer: costs[layer],
    )


def _arms(
    layer: str, pretrained: ArrayLike, random: ArrayLike, min_seeds: int
) -> tuple[Floats, Floats]:
    known, guesses = np.asarray(pretrained, np.float64), np.asarray(random, np.float64)
    if known.ndim != 1 or guesses.ndim != 2 or guesses.shape[1] != len(known) or len(known) < 2:
        raise AnalysisError(
            f"layer {layer}: scores {known.shape} pretrained and {guesses.shape} random; give "
            "(folds,) and (seeds, folds) of the same two or more folds"
        )
    if len(guesses) < min_seeds:
        raise AnalysisError(
            f"layer {layer}: {len(guesses)} random networks, at least {min_seeds} are needed "
            "for a mean that one lucky seed does not decide"
        )
    if not (np.isfinite(known).all() and np.isfinite(guesses).all()):
        raise AnalysisError(f"layer {layer}: scores that are not finite; look for a failed probe")
    return known, guesses
