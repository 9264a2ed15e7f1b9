"""A study folder as found: its plan, how far it came, its runs; or plain run folders."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.runs.state import DONE, StepState, read_states
from histotransfer_pl.runs.steps import PLAN, Plan, Step, read_plan

SETTINGS = "study.yaml"


@dataclass(frozen=True)
class PlannedRun:
    """A run folder that should hold predictions.

    Attributes:
        name: Name of the folder.
        folder: Where it is now.
        run_dir: The folder as the command named it; attention of earlier releases bears this name.
        factors: What the study varied; empty for a plain run, whose record says it.
        problem: Why it cannot be there, if a step of it failed or was not reached.
    """

    name: str
    folder: Path
    run_dir: str
    factors: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Network:
    """What decides the cost of features.

    Attributes:
        name: Name in the catalogue.
        input_px: Side to which patches are resized; None for as they are.
    """

    name: str
    input_px: int | None = None


@dataclass(frozen=True)
class MovedPaths:
    """Where the paths of a plan are now.

    Attributes:
        folder: The study folder as it was given; None for plain runs, which are where they are.
        working_folder: The folder in which the plan was made; its paths are relative to it.
    """

    folder: Path | None
    working_folder: Path

    def find(self, name: str) -> Path:
        """A path of the plan: as written if it is there, else below the study folder."""
        path = Path(name)
        starts = range(1, len(path.parts)) if self.folder is not None else ()
        tails = [Path(self.folder or "", *path.parts[start:]) for start in starts]
        # A study that was copied to another place has its own runs, not those left behind.
        for candidate in (*tails, path, self.working_folder / path):
            if candidate.exists():
                return candidate
        return path


@dataclass(frozen=True)
class Study:
    """A study folder as found, or plain run folders.

    Attributes:
        plan: Its plan; without steps for plain runs.
        runs: The run folders whose predictions are to be compared.
        folder: Its folder; None for plain runs.
        states: How each step stands.
        settings: Text of ``study.yaml``, if any.
        places: Where its paths are.
    """

    plan: Plan
    runs: tuple[PlannedRun, ...]
    folder: Path | None = None
    states: Mapping[str, StepState] = field(default_factory=dict)
    settings: str = ""
    places: MovedPaths = MovedPaths(None, Path())

    @property
    def steps(self) -> list[Step]:
        """The steps but the report, which is still running while it is written."""
        return [step for step in self.plan if step.kind != "report"]

    def network(self, encoder: str) -> Network | None:
        """The network that extracted features under a name in the store, if a step says it."""
        for step in self.plan.of_kind("extract"):
            if step.factors.get("encoder") == encoder:
                return _network(step)
        return None

    def count(self, state: str) -> int:
        """How many steps are in a state."""
        return sum(self.states[step.name].state == state for step in self.steps)


def load_study(folder: Path) -> Study:
    """Read the plan of a study and how far it came.

    Raises:
        ConfigError: No plan, or one that cannot be read.
    """
    plan = read_plan(folder / PLAN)
    places = MovedPaths(folder, Path(plan.working_folder))
    states = read_states(folder, plan, lambda name: places.find(name).exists())
    settings = folder / SETTINGS
    return Study(
        plan,
        tuple(_planned_runs(places, plan, states)),
        folder,
        states,
        settings.read_text(encoding="utf-8") if settings.is_file() else "",
        places,
    )


def load_runs(folders: Sequence[Path]) -> Study:
    """Take plain run folders as a study."""
    if not folders:
        raise ConfigError("nothing to report: give --study_dir DIR, or --runs with run folders")
    times = Counter(folder.resolve() for folder in folders)
    twice = next((folder for folder in folders if times[folder.resolve()] > 1), None)
    if twice is not None:
        raise ConfigError(f"run folder {twice} is given twice: name each run once")
    runs = [
        PlannedRun(str(f), f, str(f), problem="" if f.is_dir() else f"there is no folder {f}")
        for f in folders
    ]
    return Study(Plan("1 run" if len(runs) == 1 else f"{len(runs)} runs", ()), tuple(runs))


def _network(step: Step) -> Network | None:
    try:
        said = json.loads(str(step.option("model.encoder")))
    except ValueError:
        side = step.option("model.input_px")
        return Network(str(step.option("model.encoder")), None if side is None else int(side))
    first = said[0] if isinstance(said, list) and said else {}
    return Network(str(first.get("name")), first.get("input_px"))


def _planned_runs(
    places: MovedPaths, plan: Plan, states: Mapping[str, StepState]
) -> list[PlannedRun]:
    """One run for each folder that a step evaluates, with the first problem on the way to it."""
    by_folder: dict[str, list[Step]] = {}
    for step in plan:
        run_dir = step.option("run_dir")
        if run_dir is not None:
            by_folder.setdefault(run_dir, []).append(step)
    runs = []
    for run_dir, own in by_folder.items():
        test = next((step for step in own if step.kind == "test"), None)
        if test is None:
            continue
        # What an older command left in the folder is not what the plan says; attention may lack.
        needed = [step for step in own if step.kind in ("fit", "finetune", "test")]
        problem = next(
            (_describe_state(s, states[s.name]) for s in needed if states[s.name].state != DONE), ""
        )
        place = places.find(run_dir)
        runs.append(PlannedRun(place.name, place, run_dir, test.factors, problem))
    return runs


def _describe_state(step: Step, state: StepState) -> str:
    return f"{step.name} {state.state}" + (f": {state.error}" if state.error else "")
