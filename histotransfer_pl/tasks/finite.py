"""Refuses to train on with NaN, without making the program wait for a device."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class _Answer(NamedTuple):
    """The sum of some values, on its way to the host, and what to do if it is not finite."""

    total: Tensor  # ()
    arrived: torch.Event
    refuse: Callable[[], None]


class FiniteCheck:
    """Looks whether the values of each step are finite.

    On the CPU at once. On a device the answer of a step is read when the next one asks, or when
    ``settle`` is called: to read it at once would end the step's head start over the device. A
    bad step has then reached the weights, and the run ends before they are stored.
    """

    def __init__(self) -> None:
        self._waiting: _Answer | None = None

    def note(self, total: Tensor, refuse: Callable[[], None]) -> None:
        """Ask for the answer of a step.

        Args:
            total: () float32, a sum over all values: finite if they are, and cheaper than to look
                at each.
            refuse: Raises the error that says where they are not.
        """
        self.settle()
        if total.device.type == "cpu":
            if not math.isfinite(total):
                refuse()
            return
        on_host = torch.empty_like(total, device="cpu", pin_memory=True)
        on_host.copy_(total, non_blocking=True)
        arrived = torch.Event(total.device)
        arrived.record()
        self._waiting = _Answer(on_host, arrived, refuse)

    def settle(self) -> None:
        """Read the answer that is still under way."""
        answer, self._waiting = self._waiting, None
        if answer is None:
            return
        answer.arrived.synchronize()
        if not math.isfinite(answer.total):
            answer.refuse()
