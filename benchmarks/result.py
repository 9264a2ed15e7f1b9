"""What a benchmark reports: a ratio to a reference that was measured in the same minutes."""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from typing_extensions import override

SECONDS = "BENCHMARK_SECONDS"
"""The variable that says after how many seconds a program begins no further rounds."""
_STARTED = time.perf_counter()


@dataclass(frozen=True)
class Result:
    """A ratio, its goal and its spread."""

    name: str
    ratio: float
    """Median over the rounds; work by reference."""
    goal: float
    unit: str = "time / time"
    low: float | None = None
    """First quartile of the ratios of the rounds."""
    high: float | None = None
    """Third quartile."""
    at_least: bool = False
    """True where more is better, as for rates."""
    notes: str = ""
    device: str = "cpu"
    left_out: str = ""
    """Why it was not measured; the ratio then means nothing."""

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.ratio >= self.goal if self.at_least else self.ratio <= self.goal

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON."""
        return {
            "name": self.name,
            "ratio": None if self.left_out else round(self.ratio, 4),
            "goal": self.goal,
            "met": self.met,
            "unit": self.unit,
            "low": None if self.low is None else round(self.low, 4),
            "high": None if self.high is None else round(self.high, 4),
            "at_least": self.at_least,
            "notes": self.notes,
            "device": self.device,
            "left_out": self.left_out,
        }

    @override
    def __str__(self) -> str:
        spread = "" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})"
        sign = ">=" if self.at_least else "<="
        if self.left_out:
            return f"{self.name}: not measured, {self.left_out}"
        verdict = "met" if self.met else "MISSED"
        line = f"{self.name}: {self.ratio:.3f}{spread}, goal {sign} {self.goal}: {verdict}"
        return f"{line}; {self.notes}" if self.notes else line


def left_out(name: str, goal: float, why: str, *, at_least: bool = False) -> Result:
    """A row that could not be measured here."""
    return Result(name, float("nan"), goal, at_least=at_least, left_out=why)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rounds_in_time(rounds: int, least: int = 2) -> Iterator[int]:
    """Numbers of rounds: all, or some once the program's share of the time is used.

    Args:
        rounds: How many there would be.
        least: How many there are at any rate.
    """
    limit = float(os.environ.get(SECONDS, "inf"))
    for number in range(rounds):
        if number >= least and time.perf_counter() - _STARTED > limit:
            return
        yield number


def compare(
    name: str,
    goal: float,
    work: Callable[[int], object],
    reference: Callable[[int], object],
    rounds: int,
    *,
    speedup: bool = False,
    notes: str = "",
    device: str = "cpu",
    amount: float = 0,
    unit: str = "",
) -> Result:
    """Time two ways of doing the same, turn by turn so that a busy machine hurts both.

    Args:
        name: What is compared.
        goal: The largest ratio that is good enough.
        work: The project's way; gets the number of the round.
        reference: The plain way; likewise.
        rounds: How often each is run at most, after one run each that is not counted.
        speedup: Give the reference's time by ours, of which more is better.
        notes: Added to the result, after the medians of both.
        device: Where it runs.
        amount: How much a round does; then rates stand beside times.
        unit: Of what.

    Returns:
        The median of the rounds' ratios, with their quartiles as spread.
    """
    work(0)
    reference(0)
    ours: list[float] = []
    theirs: list[float] = []
    pairs = [(work, ours), (reference, theirs)]
    for number in rounds_in_time(rounds):
        for run, times in pairs if number % 2 else pairs[::-1]:
            times.append(seconds(partial(run, number)))
    return from_times(
        *(name, goal, ours, theirs),
        speedup=speedup,
        notes=notes,
        device=device,
        amount=amount,
        unit=unit,
    )


def from_times(
    name: str,
    goal: float,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    speedup: bool = False,
    notes: str = "",
    device: str = "cpu",
    amount: float = 0,
    unit: str = "",
) -> Result:
    """The result of rounds that were timed one after the other, in seconds.

    A round's ratio compares what ran in the same seconds; their median is not moved by one round
    in which the machine did something else.
    """
    pairs = list(zip(ours, theirs, strict=True))
    ratios = [b / a if speedup else a / b for a, b in pairs]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    times = f"{_short(ours)} against {_short(theirs)}, {len(ratios)} rounds"
    if amount:
        rates = [_rate(amount / statistics.median(each)) for each in (ours, theirs)]
        times += f"; {rates[0]} against {rates[1]} {unit}/s"
    return Result(
        name,
        statistics.median(ratios),
        goal,
        unit="speed / speed" if speedup else "time / time",
        low=quartiles[0],
        high=quartiles[2],
        at_least=speedup,
        notes=f"{times}; {notes}" if notes else times,
        device=device,
    )


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _short(times: Sequence[float]) -> str:
    return f"{statistics.median(times) * 1e3:.3g} ms"
