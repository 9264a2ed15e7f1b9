"""What a study planned and how far it came; or plain run folders, taken as one."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from histotransfer_pl.errors import ConfigError

PLAN, STATE, SETTINGS, MARKERS = "plan.json", "state.json", "study.yaml", "done"
DONE, FAILED, WAITING = "done", "failed", "waiting"


@dataclass(frozen=True)
class Step:
    """One command of a study.

    Attributes:
        name: Its name in the plan.
        kind: What it does: extract, fit, test, ...
        argv: The verb and its arguments.
        outputs: Files whose existence means done.
        factors: What of the comparison it belongs to: encoder, depth, head, fold, ...
        state: done, failed or waiting.
        seconds: How long it took, if known.
        error: The line that says why it failed.
        digest: What the marker of this step holds once its command has run.
    """

    name: str
    kind: str
    argv: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    factors: Mapping[str, Any] = field(default_factory=dict)
    state: str = WAITING
    seconds: float | None = None
    error: str = ""
    digest: str = ""

    @property
    def command(self) -> str:
        """The command as one types it."""
        return shlex.join(["python", "-m", "histotransfer_pl", *self.argv])

    def option(self, name: str) -> str | None:
        """The value of ``--name VALUE`` or ``--name=VALUE``."""
        for place, word in enumerate(self.argv):
            if word == f"--{name}" and place + 1 < len(self.argv):
                return self.argv[place + 1]
            if word.startswith(f"--{name}="):
                return word.partition("=")[2]
        return None


@dataclass(frozen=True)
class PlannedRun:
    """A run folder that should hold predictions.

    Attributes:
        name: Name of the folder.
        folder: Where it is now.
        run_dir: The folder as the command named it; attention in the store bears this name.
        factors: What the study varied; empty for a plain run, whose configuration says it.
        problem: Why it cannot be there, if a step of it failed or was not reached.
    """

    name: str
    folder: Path
    run_dir: str
    factors: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Places:
    """Where the paths of a plan are now.

    Attributes:
        folder: The study folder as it was given.
        working_folder: The folder in which the plan was made; its paths are relative to it.
    """

    folder: Path
    working_folder: Path

    def find(self, name: str) -> Path:
        """A path of the plan: as written if it is there, else below the study folder."""
        path = Path(name)
        tails = [self.folder.joinpath(*path.parts[start:]) for start in range(1, len(path.parts))]
        # A study that was copied to another place has its own runs, not those left behind.
        for candidate in (*tails, path, self.working_folder / path):
            if candidate.exists():
                return candidate
        return path


@dataclass(frozen=True)
class Study:
    """A study folder as found, or plain run folders.

    Attributes:
        name: Name of the study.
        folder: Its folder; None for plain runs.
        created: When it was planned, as written in the plan.
        steps: All steps of the plan, in order.
        runs: The run folders whose predictions are to be compared.
        settings: Text of ``study.yaml``, if any.
        note: What the study says of itself, for the top of the page.
        places: Where its paths are.
    """

    name: str
    folder: Path | None
    created: str
    steps: tuple[Step, ...]
    runs: tuple[PlannedRun, ...]
    settings: str = ""
    places: Places = Places(Path(), Path())
    note: str = ""

    def of_kind(self, kind: str) -> list[Step]:
        """The steps of a kind."""
        return [step for step in self.steps if step.kind == kind]

    def count(self, state: str) -> int:
        """How many steps are in a state."""
        return sum(step.state == state for step in self.steps)


def load_study(folder: Path) -> Study:
    """Read the plan of a study and its state.

    Raises:
        ConfigError: No plan, or one that cannot be read.
    """
    plan = _read_json(folder / PLAN)
    if plan is None:
        raise ConfigError(
            f"no {PLAN} in {folder}: give the folder of a study (python -m histotransfer_pl study "
            "makes one), or plain run folders with --runs"
        )
    states = _read_json(folder / STATE) or {}
    try:
        where = Places(folder, Path(str(plan.get("working_folder", "."))))
        steps = [_step(where, entry, states.get(entry["name"])) for entry in plan["steps"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{folder / PLAN} is no plan of a study ({type(error).__name__}: {error}); plan the "
            "study again"
        ) from error
    settings = folder / SETTINGS
    return Study(
        name=str(plan.get("name") or folder.resolve().name),
        folder=folder,
        created=str(plan.get("created", "")),
        # The step that writes this page is still running, and not news to its reader.
        steps=tuple(step for step in steps if step.kind != "report"),
        runs=tuple(_planned_runs(where, steps)),
        settings=settings.read_text(encoding="utf-8") if settings.is_file() else "",
        places=where,
        note=str(plan.get("note") or ""),
    )


def load_runs(folders: Sequence[Path]) -> Study:
    """Take plain run folders as a study.

    Raises:
        ConfigError: No folder is given, or a folder is given twice.
    """
    if not folders:
        raise ConfigError("nothing to report: give --study_dir DIR, or --runs with run folders")
    resolved = [folder.resolve() for folder in folders]
    twice = [str(f) for f, r in zip(folders, resolved, strict=True) if resolved.count(r) > 1]
    if twice:
        raise ConfigError(f"run folder {twice[0]} is given twice: name each run once")
    runs = [
        PlannedRun(str(f), f, str(f), problem="" if f.is_dir() else f"there is no folder {f}")
        for f in folders
    ]
    return Study(f"{len(runs)} runs", None, "", (), tuple(runs))


def _step(where: Places, entry: Mapping[str, Any], state: Mapping[str, Any] | None) -> Step:
    outputs = tuple(map(str, entry.get("outputs", ())))
    there = all(where.find(output).exists() for output in outputs)
    if state is None:
        # A killed study may have finished a step without saying so.
        state = {"state": DONE if outputs and there else WAITING}
    step = Step(
        name=str(entry["name"]),
        kind=str(entry["kind"]),
        argv=tuple(map(str, entry["argv"])),
        outputs=outputs,
        factors=dict(entry.get("factors") or {}),
        state=str(state.get("state", WAITING)),
        seconds=None if state.get("seconds") is None else float(state["seconds"]),
        error=str(state.get("error") or ""),
        digest=str(entry.get("digest") or ""),
    )
    # Snakemake writes markers and not the state, which then is that of an earlier attempt.
    return replace(step, state=DONE, error="") if there and _is_marked(where, step) else step


def _is_marked(where: Places, step: Step) -> bool:
    """Whether the marker says that this very command has run to its end."""
    try:
        marker = (where.folder / MARKERS / step.name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return bool(step.digest) and marker.strip() == step.digest


def _planned_runs(where: Places, steps: Sequence[Step]) -> list[PlannedRun]:
    """One run for each folder that a step evaluates, with the first problem on the way to it."""
    by_folder: dict[str, list[Step]] = {}
    for step in steps:
        run_dir = step.option("run_dir")
        if run_dir is not None:
            by_folder.setdefault(run_dir, []).append(step)
    runs = []
    for run_dir, own in by_folder.items():
        test = next((step for step in own if step.kind == "test"), None)
        if test is None:
            continue
        # What an older command left in the folder is not what the plan says; attention may lack.
        needed = [step for step in own if step.kind != "predict"]
        problem = next((_why(step) for step in needed if step.state != DONE), "")
        place = where.find(run_dir)
        runs.append(PlannedRun(place.name, place, run_dir, test.factors, problem))
    return runs


def _why(step: Step) -> str:
    return f"{step.name} {step.state}" + (f": {step.error}" if step.error else "")


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON ({error}): run the study again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, expected an object")
    return content
