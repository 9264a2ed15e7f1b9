"""Losses of slides for survival, ordered classes, several labels and values: pure functions.

Each gives one number per slide, so that weights of slides and means over steps are the caller's.
A mean over a step of one slide says nothing under Cox: give it several slides per step, or those
of an epoch with all but the step's own detached.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cox_loss(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Negative Cox log partial likelihood of each slide, ties after Efron (1977).

    The slide with an event is held against all that were still at risk; of d events at one time
    the l-th is held against them less l / d of the d. The sum over slides is the published
    likelihood; slides without an event add 0 and serve as comparison only.

    Args:
        risk: (S,) log hazard ratio.
        time: (S,) time to event or to the end of observation.
        event: (S,) true where the event was seen.

    Returns:
        (S,) losses; the events of one time share theirs equally.
    """
    risk = risk.double()  # (S,) differences of sums of exponentials
    event = event.bool()
    at_risk = time[None, :] >= time[:, None]  # (S, S), row i: who is at risk at time i
    tied = (time[None, :] == time[:, None]) & event[None, :]  # (S, S), events at time i
    count = tied.sum(1)  # (S,)
    place = (tied.tril(-1)).sum(1)  # (S,), from 0 among the events of the same time
    shift = risk.detach().max()
    weight = (risk - shift).exp()  # (S,)
    share = place / count.clamp(min=1)  # (S,)
    total = (at_risk * weight).sum(1) - share * (tied * weight).sum(1)  # (S,)
    losses = torch.where(event, shift + total.clamp(min=torch.finfo(total.dtype).tiny).log(), 0)
    mean = (tied * torch.where(event, losses - risk, 0)).sum(1) / count.clamp(min=1)  # (S,)
    return torch.where(event, mean, torch.zeros_like(mean))


def hazard_loss(logits: Tensor, place: Tensor, stopped: Tensor) -> Tensor:
    """Negative log likelihood of a process that may stop at each of K steps.

    Discrete-time survival (Gensheimer and Narasimhan 2019, equation 5): step k is an interval of
    time, its logit that of the hazard, and `stopped` says whether the event was seen; without one
    the slide has survived the interval it is placed in.

    Args:
        logits: (S, K) logit of stopping at a step that was reached.
        place: (S,) step, from 0, at which it stopped or was last seen.
        stopped: (S,) true where it stopped there.

    Returns:
        (S,) losses.
    """
    steps = torch.arange(logits.shape[1], device=logits.device)  # (K,)
    reached = steps <= place[:, None]  # (S, K)
    target = (steps == place[:, None]) & stopped.bool()[:, None]  # (S, K)
    each = F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    return (each * reached).sum(1)


def ordinal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of ordered classes by continuation ratios (Shi et al. 2023, CORN).

    A slide climbs from class to class and stops at its own: `hazard_loss` over the C - 1 steps
    below the last class, which is where those stay that never stopped.

    Args:
        logits: (S, C - 1) logit of stopping at a class that was reached.
        labels: (S,) class, 0 to C - 1 in their order.

    Returns:
        (S,) losses, -log of `ordinal_probabilities` at the label.
    """
    last = logits.shape[1]
    return hazard_loss(logits, labels.clamp(max=last - 1), labels < last)


def ordinal_probabilities(logits: Tensor) -> Tensor:
    """Class probabilities (S, C) from logits (S, C - 1) of stopping at a class."""
    passed = F.logsigmoid(-logits).cumsum(1)  # (S, C - 1), log of reaching the next class
    reached = torch.cat([torch.zeros_like(passed[:, :1]), passed[:, :-1]], 1)  # (S, C - 1)
    return torch.cat([reached + F.logsigmoid(logits), passed[:, -1:]], 1).exp()  # (S, C)


def hazard_survival(logits: Tensor) -> Tensor:
    """Probability (S, K) of having passed each step, from logits (S, K) of stopping at it."""
    return F.logsigmoid(-logits).cumsum(1).exp()


def multilabel_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy over the labels that a slide has.

    Args:
        logits: (S, L).
        labels: (S, L) zero, one, or NaN where the label is missing.
        weights: (L,) weight of each label; all 1 if None.

    Returns:
        (S,) losses; 0 for a slide without a label.
    """
    known = labels.isfinite()  # (S, L)
    # A NaN target would reach the gradient even where its loss is masked.
    targets = torch.where(known, labels, torch.zeros_like(labels)).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")  # (S, L)
    scale = known.to(logits.dtype)
    if weights is not None:
        scale = scale * weights
    whole = scale.sum(1)  # (S,)
    return (each * scale).sum(1) / torch.where(whole > 0, whole, torch.ones_like(whole))


def regression_loss(values: Tensor, targets: Tensor, delta: float | None = None) -> Tensor:
    """Squared error, or Huber's with its corner at `delta`, both of scaled targets.

    Args:
        values: (S,) prediction in deviations of the training targets.
        targets: (S,) target on that scale.
        delta: Where Huber's loss turns from a square to a line; None for the squared error.

    Returns:
        (S,) losses; both are the half square near 0.
    """
    if delta is None:
        return F.mse_loss(values, targets, reduction="none") / 2
    return F.huber_loss(values, targets, reduction="none", delta=delta)
