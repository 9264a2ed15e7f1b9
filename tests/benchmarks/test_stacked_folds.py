"""Stacked heads learn what they learn alone: what the measurement compares is the same work."""

import torch

from benchmarks.stacked_folds import training


def test_stacked_steps_give_the_losses_of_single_ones() -> None:
    torch.manual_seed(0)
    at_once, one_by_one = training(3, torch.randn(30, 16))
    losses = [(at_once(step), one_by_one(step)) for step in range(20)]
    for stacked, single in losses:
        torch.testing.assert_close(stacked, single, atol=1e-5, rtol=0)
    assert (losses[-1][1] < losses[0][1] - 0.1).all()  # they did learn
    assert losses[0][1].unique().numel() == 3  # and are three models
