"""A plan and how its steps stand, as text."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from histotransfer_pl.runs.state import (
    DONE,
    FAILED,
    RUNNING,
    WAITING,
    StepState,
    measured_seconds,
    read_states,
)
from histotransfer_pl.runs.steps import Plan, Step
from histotransfer_pl.study.progress import Estimate, estimate, remaining_steps

_SHOWN = 4


def standing(plan: Plan, folder: Path) -> dict[str, StepState]:
    """The state of each step; done is only what need not run again."""
    states = read_states(folder, plan)
    for step in remaining_steps(plan, folder):
        if states[step.name].state == DONE:
            states[step.name] = StepState(WAITING)
    return states


def time_left(plan: Plan, folder: Path, left: Sequence[Step]) -> Estimate:
    """How long steps take one after the other, from those that are done."""
    return estimate(count(left), measured_seconds(plan, read_states(folder, plan)))


def median_seconds(plan: Plan, folder: Path) -> dict[str, float]:
    """How long a finished step of each kind took."""
    measured = measured_seconds(plan, read_states(folder, plan))
    return {kind: median(seconds) for kind, seconds in measured.items()}


def describe_plan(plan: Plan, folder: Path) -> str:
    """The command of every step, in order, with what it needs and whether it is done."""
    left = remaining_steps(plan, folder)
    names = {step.name for step in left}
    lines = [f"# {plan.name}: {len(plan)} steps ({count_kinds(plan.steps)}), {len(left)} to run"]
    for number, step in enumerate(plan, 1):
        state = "to run" if step.name in names else "done"
        needs = f", needs {shorten_names(step.needs)}" if step.needs else ""
        lines += [f"\n# {number}. {step.name} ({state}{needs})", step.command]
    lines.append(f"\n# {time_left(plan, folder, left).describe()}")
    return "\n".join(lines)


def describe_status(plan: Plan, folder: Path) -> str:
    """How many steps of each kind stand how, which run, and which failed with their last words."""
    states = standing(plan, folder)
    columns = (DONE, RUNNING, FAILED, WAITING)
    rows = {kind: [0, 0, 0, 0] for kind in ("all", *count(plan.steps))}
    for step in plan:
        for kind in ("all", step.kind):
            rows[kind][columns.index(states[step.name].state)] += 1
    width = max(map(len, rows))
    lines = [plan.name, " " * width + "".join(f"{column:>9}" for column in columns)]
    lines += [kind.ljust(width) + "".join(f"{n:>9}" for n in row) for kind, row in rows.items()]
    lines += [f"running: {name}" for name, state in states.items() if state.state == RUNNING]
    for name, state in states.items():
        if state.state == FAILED:
            lines += [f"failed: {name}, see {folder / 'logs' / name}.log", f"  {state.error}"]
    blocked = sum(state.state == WAITING and bool(state.error) for state in states.values())
    if blocked:
        lines.append(f"{blocked} steps wait for what failed")
    left = [step for step in plan if states[step.name].state != DONE]
    if left:
        lines.append(time_left(plan, folder, left).describe())
    return "\n".join(lines)


def shorten_names(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def count_kinds(steps: Iterable[Step]) -> str:
    """How many steps of each kind, in words."""
    return ", ".join(f"{n} {kind}" for kind, n in count(steps).items())


def count(steps: Iterable[Step]) -> Counter[str]:
    """How many steps of each kind."""
    return Counter(step.kind for step in steps)
