"""How each step of a study stands: `state.json`, and the markers that decide."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from histotransfer_pl.records.files import write_text
from histotransfer_pl.runs.steps import Step

STATE = "state.json"
Standing = Literal["done", "failed", "waiting"]
DONE: Standing = "done"
FAILED: Standing = "failed"
WAITING: Standing = "waiting"


@dataclass
class StepState:
    """How a step stands.

    Attributes:
        state: `waiting` also means that a step it needs has failed; `error` then says which.
        seconds: How long it took when it ran last.
        error: Why it failed or cannot run, in one line.
    """

    state: Standing = "waiting"
    seconds: float | None = None
    error: str = ""


class StudyState:
    """The standing of all steps, written after each change.

    It is for people and the report. What is done is decided by markers, not here, so that losing
    this file loses the times only.
    """

    def __init__(self, path: Path, steps: dict[str, StepState]) -> None:
        self._path = path
        self.steps = steps

    @classmethod
    def read(cls, folder: Path, steps: Sequence[Step]) -> "StudyState":
        """The states of steps; what the file of a study says of others is dropped."""
        path = folder / STATE
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            found = {name: StepState(**item) for name, item in known.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            # Absent, or damaged by hand: only times are lost.
            found = {}
        return cls(path, {step.name: found.get(step.name, StepState()) for step in steps})

    def set(self, name: str, state: StepState) -> None:
        """Change one and write all."""
        self.steps[name] = state
        self.write()

    def write(self) -> None:
        """Write the file whole."""
        content = {name: asdict(state) for name, state in self.steps.items()}
        write_text(self._path, json.dumps(content, indent=1) + "\n")

    def measured(self, steps: Sequence[Step]) -> dict[str, list[float]]:
        """Seconds of the finished steps of each kind."""
        seconds: dict[str, list[float]] = {}
        for step in steps:
            state = self.steps[step.name]
            if state.state == DONE and state.seconds is not None:
                seconds.setdefault(step.kind, []).append(state.seconds)
        return seconds


def marker(folder: Path, step: Step) -> Path:
    """The file that says that a step is done."""
    return folder / "done" / step.name


def mark_done(folder: Path, step: Step) -> None:
    """Say that a step is done."""
    write_text(marker(folder, step), step.digest + "\n")


def is_marked(folder: Path, step: Step) -> bool:
    """Whether the marker says that this very command has run to its end."""
    try:
        return marker(folder, step).read_text(encoding="utf-8").strip() == step.digest
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return False
