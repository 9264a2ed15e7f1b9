"""What a benchmark reports: a ratio to a reference that was measured in the same minutes."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from typing_extensions import override


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

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.ratio >= self.goal if self.at_least else self.ratio <= self.goal

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON."""
        return {
            "name": self.name,
            "ratio": round(self.ratio, 4),
            "goal": self.goal,
            "met": self.met,
            "unit": self.unit,
            "low": None if self.low is None else round(self.low, 4),
            "high": None if self.high is None else round(self.high, 4),
            "at_least": self.at_least,
            "notes": self.notes,
        }

    @override
    def __str__(self) -> str:
        spread = "" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})"
        sign = ">=" if self.at_least else "<="
        verdict = "met" if self.met else "MISSED"
        line = f"{self.name}: {self.ratio:.3f}{spread}, goal {sign} {self.goal}: {verdict}"
        return f"{line}; {self.notes}" if self.notes else line


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    name: str,
    goal: float,
    work: Callable[[int], object],
    reference: Callable[[int], object],
    rounds: int,
    *,
    notes: str = "",
) -> Result:
    """Time two ways of doing the same, turn by turn so that a busy machine hurts both.

    Args:
        name: What is compared.
        goal: The largest ratio that is good enough.
        work: The project's way; gets the number of the round.
        reference: The plain way; likewise.
        rounds: How often each is run, after one run each that is not counted.
        notes: Added to the result, after the medians of both.

    Returns:
        The ratio of the medians, with the quartiles of the rounds' ratios as spread.
    """
    work(0)
    reference(0)
    ours: list[float] = []
    theirs: list[float] = []
    pairs = [(work, ours), (reference, theirs)]
    for number in range(rounds):
        for run, times in pairs if number % 2 else pairs[::-1]:
            times.append(seconds(partial(run, number)))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    median, base = statistics.median(ours), statistics.median(theirs)
    times_note = f"{median * 1e3:.3g} ms against {base * 1e3:.3g} ms, {rounds} rounds"
    return Result(
        name,
        median / base,
        goal,
        low=quartiles[0],
        high=quartiles[2],
        notes=f"{times_note}; {notes}" if notes else times_note,
    )
