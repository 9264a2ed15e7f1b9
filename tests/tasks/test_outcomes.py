"""Each outcome learns, by its own loss and a linear head, what its own metrics then measure."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from histotransfer_pl.analysis.metrics import evaluate
from histotransfer_pl.analysis.predictions import Predictions
from histotransfer_pl.analysis.survival import horizons
from histotransfer_pl.analysis.values import TargetScale
from histotransfer_pl.tasks.outcomes import (
    Classes,
    Hazards,
    Labels,
    OrderedClasses,
    Outcome,
    Risk,
    Value,
)

S = 200
RNG = np.random.default_rng(0)
FEATURES = torch.tensor(RNG.normal(size=(S, 6)), dtype=torch.float32)
LATENT = FEATURES[:, :3].numpy().astype(np.float64) + 0.3 * RNG.normal(size=(S, 3))
EVENT, CENSORED = RNG.exponential(np.exp(-2 * LATENT[:, 0])), RNG.exponential(2.0, S)
SURVIVAL = torch.tensor(np.stack([np.minimum(EVENT, CENSORED), EVENT <= CENSORED], 1))
TIMES = horizons(SURVIVAL.numpy())
MISSING = np.where(RNG.random((S, 3)) < 0.2, np.nan, LATENT > 0)
VALUES = 50 + 9 * LATENT[:, 0]

CASES: list[tuple[Outcome, Tensor, float]] = [
    (Classes(("a", "b")), torch.tensor(LATENT[:, 0] > 0).long(), 0.9),
    (OrderedClasses(("a", "b", "c")), torch.tensor(np.digitize(LATENT[:, 0], [-0.5, 0.5])), 0.6),
    (Labels(("x", "y", "z"), (1.0, 2.0, 1.0)), torch.tensor(MISSING), 0.9),
    (Value(TargetScale.of(VALUES)), torch.tensor(VALUES), 0.8),
    (Value(TargetScale.of(VALUES), delta=1.0), torch.tensor(VALUES), 0.8),
    (Risk(TIMES), SURVIVAL, 0.75),
    (Hazards(TIMES), SURVIVAL, 0.75),
]
EACH = pytest.mark.parametrize(("outcome", "targets", "least"), CASES)


def fitted(outcome: Outcome, targets: Tensor, train: Tensor) -> torch.nn.Linear:
    torch.manual_seed(0)
    head = torch.nn.Linear(6, outcome.n_outputs)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        outcome.losses(head(FEATURES[train]), targets[train]).mean().backward()
        optimizer.step()
    return head


def watched(outcome: Outcome, scores: Tensor, targets: Tensor) -> float:
    ids = np.arange(len(scores)).astype(str)
    made = Predictions(ids, ids, targets.numpy(), scores.numpy(), task=outcome.task)
    return float(evaluate(next(iter(outcome.metrics().values())), made)[0])


@EACH
def test_it_learns_the_truth_and_nothing_from_shuffled_targets(
    outcome: Outcome, targets: Tensor, least: float
) -> None:
    train, test = torch.arange(100), torch.arange(100, S)
    shuffled = targets[torch.randperm(S, generator=torch.Generator().manual_seed(0))]
    found = []
    for learnt in (targets, shuffled):
        head = fitted(outcome, learnt, train)
        with torch.inference_mode():
            found.append(watched(outcome, outcome.scores(head(FEATURES[test])), learnt[test]))
    assert found[0] > least
    assert found[1] < least - 0.1


@EACH
def test_scores_have_their_columns_and_every_metric_a_value(
    outcome: Outcome, targets: Tensor, least: float
) -> None:
    outputs = torch.randn(S, outcome.n_outputs, generator=torch.Generator().manual_seed(1))
    scores = outcome.scores(outputs)
    assert scores.reshape(S, -1).shape[1] == len(outcome.columns())
    assert outcome.losses(outputs, targets).shape == (S,)
    ids = np.arange(S).astype(str)
    made = Predictions(ids, ids, targets.numpy(), scores.numpy(), task=outcome.task)
    for name, metric in outcome.metrics().items():
        assert np.isfinite(evaluate(metric, made)).all(), name


def test_outcomes_are_values() -> None:
    for make in _makers():
        assert make() == make()
    assert len({Risk(TIMES), Hazards(TIMES)}) == 2
    assert replace(Value(TargetScale(0, 1)), delta=2.0) != Value(TargetScale(0, 1))


def _makers() -> list[Callable[[], Outcome]]:
    return [lambda: Hazards((1.0, 2.0)), lambda: Classes(("a", "b")), lambda: Labels(("x",))]


def test_a_value_is_told_in_its_own_unit() -> None:
    outcome = Value(TargetScale(mean=50, deviation=9))
    assert outcome.scores(torch.tensor([[0.0], [1.0]])).tolist() == [50, 59]
    assert outcome.losses(torch.tensor([[1.0]]), torch.tensor([59.0])).tolist() == [0]


def test_an_event_at_the_end_of_an_interval_belongs_to_it() -> None:
    outcome = Hazards((1.0, 2.0))
    sure = torch.tensor([[9.0, -9.0, -9.0]])  # stops in the first interval
    first, second = (
        float(outcome.losses(sure, torch.tensor([[time, 1.0]]))[0]) for time in (1.0, 1.5)
    )
    assert first < 0.01 < 10 < second
