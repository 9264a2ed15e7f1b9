"""Losses against likelihoods written out, statsmodels and enumeration, in double precision."""

import itertools
import math

import numpy as np
import pytest
import torch
from statsmodels.duration.hazard_regression import PHReg
from torch import Tensor

from histotransfer_pl.models.losses import (
    cox_loss,
    hazard_loss,
    hazard_survival,
    multilabel_loss,
    ordinal_loss,
    ordinal_probabilities,
    regression_loss,
)

S = 40


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def survival(ties: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    time = rng.exponential(4, S)
    time = np.ceil(time) if ties else time
    event = rng.random(S) < 0.6
    return drawn(S, seed=seed), torch.tensor(time), torch.tensor(event)


@pytest.mark.parametrize("ties", [False, True])
def test_cox_is_the_efron_likelihood_of_statsmodels(ties: bool) -> None:
    risk, time, event = survival(ties)
    model = PHReg(time.numpy(), risk.numpy()[:, None], status=event.numpy(), ties="efron")
    expected = -model.loglike(np.array([1.0]))
    np.testing.assert_allclose(cox_loss(risk, time, event).sum(), expected, rtol=1e-9)


@pytest.mark.parametrize("ties", [False, True])
def test_the_gradient_of_cox_is_the_score_of_statsmodels(ties: bool) -> None:
    risk, time, event = survival(ties, seed=1)
    factor = torch.ones((), dtype=torch.double, requires_grad=True)
    cox_loss(factor * risk, time, event).sum().backward()
    model = PHReg(time.numpy(), risk.numpy()[:, None], status=event.numpy(), ties="efron")
    assert factor.grad is not None
    np.testing.assert_allclose(factor.grad, -model.score(np.array([1.0]))[0], rtol=1e-9)


def test_cox_of_two_tied_events_by_hand() -> None:
    risk = torch.tensor([0.3, -0.2, 1.1, 0.5], dtype=torch.double)
    time, event = torch.tensor([2.0, 2, 3, 1]), torch.tensor([1, 1, 0, 0])
    a, b, c, _ = risk.exp().tolist()
    whole = math.log(a + b + c) + math.log(a + b + c - (a + b) / 2) - 0.3 + 0.2
    expected = torch.tensor([whole / 2, whole / 2, 0, 0], dtype=torch.double)
    torch.testing.assert_close(cox_loss(risk, time, event), expected, rtol=1e-12, atol=0)


def test_cox_knows_no_scale_of_risk_and_no_step_without_events() -> None:
    risk, time, event = survival(True)
    far = cox_loss(risk + 800, time, event)
    torch.testing.assert_close(far, cox_loss(risk, time, event), rtol=1e-9, atol=1e-9)
    alone = risk[:1].clone().requires_grad_()
    cox_loss(alone, time[:1], torch.tensor([False])).sum().backward()
    assert alone.grad is not None
    assert alone.grad.tolist() == [0]


def test_only_the_slides_of_the_step_move_when_the_epoch_is_detached() -> None:
    """A step's loss over the risk sets of the epoch is the epoch's, its gradient the step's."""
    risk, time, event = survival(True)
    step = torch.arange(S) < 5
    mine = risk.clone().requires_grad_()
    together = torch.where(step, mine, risk)
    losses = cox_loss(together, time, event)
    torch.testing.assert_close(losses, cox_loss(risk, time, event))
    losses.sum().backward()
    assert mine.grad is not None
    assert (mine.grad[5:] == 0).all()
    assert (mine.grad[:5] != 0).all()


def test_hazard_is_the_likelihood_written_out() -> None:
    logits = drawn(6, 4)
    place, stopped = torch.tensor([0, 3, 1, 2, 0, 3]), torch.tensor([1, 1, 1, 0, 0, 0])
    hazards = logits.sigmoid().tolist()
    for row, found in enumerate(hazard_loss(logits, place, stopped).tolist()):
        k, h = int(place[row]), hazards[row]
        passed = math.prod(1 - h[j] for j in range(k))
        likelihood = passed * (h[k] if stopped[row] else 1 - h[k])
        assert found == pytest.approx(-math.log(likelihood), rel=1e-9)


def test_survival_is_what_is_left_of_all_ways_to_stop() -> None:
    logits = drawn(3, 4)
    hazards = logits.sigmoid()
    for row, k in itertools.product(range(3), range(4)):
        expected = math.prod(1 - float(h) for h in hazards[row, : k + 1])
        assert float(hazard_survival(logits)[row, k]) == pytest.approx(expected, rel=1e-9)


def test_ordinal_is_the_cross_entropy_of_its_probabilities() -> None:
    logits = drawn(20, 3)
    labels = torch.arange(20) % 4
    chances = ordinal_probabilities(logits)
    torch.testing.assert_close(chances.sum(1), torch.ones(20, dtype=torch.double))
    expected = -chances[torch.arange(20), labels].log()
    torch.testing.assert_close(ordinal_loss(logits, labels), expected, rtol=1e-9, atol=1e-12)
    h = logits[0].sigmoid().tolist()
    by_hand = [h[0], (1 - h[0]) * h[1], (1 - h[0]) * (1 - h[1]) * h[2]]
    assert chances[0, :3].tolist() == pytest.approx(by_hand, rel=1e-9)


def test_two_ordered_classes_are_logistic_regression() -> None:
    logits, labels = drawn(10, 1), torch.arange(10) % 2
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        -logits[:, 0], labels.double(), reduction="none"
    )
    torch.testing.assert_close(ordinal_loss(logits, labels), expected)


def test_a_missing_label_has_no_part_in_loss_and_gradient() -> None:
    logits = drawn(3, 2).requires_grad_()
    labels = torch.tensor([[1, math.nan], [0, 1], [math.nan, math.nan]], dtype=torch.double)
    weights = torch.tensor([2.0, 3.0], dtype=torch.double)
    losses = multilabel_loss(logits, labels, weights)
    p = logits.detach().sigmoid()
    pair = -(2 * (1 - p[1, 0]).log() + 3 * p[1, 1].log()) / 5
    expected = torch.stack([-p[0, 0].log(), pair, torch.zeros((), dtype=torch.double)])
    torch.testing.assert_close(losses.detach(), expected, rtol=1e-9, atol=0)
    losses.sum().backward()
    assert logits.grad is not None
    assert (logits.grad == 0).tolist() == [[False, True], [False, False], [True, True]]


def test_huber_is_the_square_near_zero_and_a_line_beyond() -> None:
    values = torch.tensor([0.5, -3.0], dtype=torch.double)
    zeros = torch.zeros(2, dtype=torch.double)
    assert regression_loss(values, zeros).tolist() == [0.125, 4.5]
    assert regression_loss(values, zeros, delta=1.0).tolist() == [0.125, 2.5]
