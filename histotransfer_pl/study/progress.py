"""What is done, what is left, and how long that takes.

A step is done when its marker `done/<step>` holds the digest of its command, its outputs exist,
and nothing behind it has changed since. Markers are files of the study folder, so that this
machine and Snakemake agree on what is done.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from histotransfer_pl.runs.state import is_marked, is_up_to_date
from histotransfer_pl.runs.steps import ADDING, Plan, Step


@dataclass(frozen=True)
class Estimate:
    """Seconds that are left."""

    seconds: float
    unknown: int

    def describe(self) -> str:
        """In words."""
        about = duration(self.seconds)
        if not self.unknown:
            return f"about {about} left"
        return f"more than {about} left" if self.seconds else "time left unknown yet"


def duration(seconds: float) -> str:
    """Seconds in words: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def is_done(plan: Plan, step: Step, folder: Path) -> bool:
    """Whether a step was done with this command, on what it reads now."""
    if not is_marked(folder, step) or not all(Path(output).exists() for output in step.outputs):
        return False
    return is_up_to_date(folder, plan, step)


def remaining_steps(plan: Plan, folder: Path) -> list[Step]:
    """The steps that are not done, and those behind them."""
    left: dict[str, Step] = {}
    for step in plan:
        renewed = any(need in left and plan[need].kind not in ADDING for need in step.needs)
        if renewed or not is_done(plan, step, folder):
            left[step.name] = step
    return list(left.values())


def estimate(left: Mapping[str, int], measured: Mapping[str, list[float]]) -> Estimate:
    """How long steps take, from the median of the finished ones of the same kind."""
    seconds, unknown = 0.0, 0
    for kind, number in left.items():
        if measured.get(kind):
            seconds += number * median(measured[kind])
        else:
            unknown += number
    return Estimate(seconds, unknown)
