"""Steps of a study and their order."""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from histotransfer_pl.errors import ConfigError

ADDING = frozenset({"extract", "extract_tuned"})
"""Kinds whose repetition changes nothing that was there: the store refuses to overwrite features,
so what was computed from them need not be computed again."""

TOLERANT = frozenset({"report"})
"""Kinds that run even when steps before them failed: a report says what is missing."""


@dataclass(frozen=True)
class Step:
    """One command of a study.

    Attributes:
        name: Unique; a file name.
        kind: What it does: `extract`, `fit`, `test`, ...
        argv: Verb and settings, as on the command line after `python -m histotransfer_pl`.
        needs: Steps that must be done before.
        inputs: Files from outside the study that it reads.
        outputs: Files whose existence is needed for the step to count as done.
        factors: What it stands for in the comparison.
        threads: Threads it computes with; None for all.
        reads: What determines the features that it reads and its command does not say.
    """

    name: str
    kind: str
    argv: tuple[str, ...]
    needs: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    factors: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    reads: str = ""

    @property
    def command(self) -> str:
        """The command as one types it."""
        return "python -m histotransfer_pl " + shlex.join(self.argv)

    @property
    def digest(self) -> str:
        """Stands for the command: a step is done again when its command has changed.

        So it is when the features that it reads are made otherwise: repeating an extraction alone
        renews nothing behind it.
        """
        words = [*self.argv, self.reads] if self.reads else self.argv
        return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Plan:
    """The steps of a study, each behind what it needs."""

    name: str
    steps: tuple[Step, ...]
    _by_name: dict[str, Step] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        seen = self._by_name
        for step in self.steps:
            unknown = [need for need in step.needs if need not in seen]
            if unknown:
                raise ConfigError(f"step {step.name} needs {unknown}, which do not stand before it")
            if step.name in seen:
                raise ConfigError(
                    f"two steps are called {step.name}: give encoders, depths and heads names "
                    "that differ in letters, digits, '.', '_' or '-'"
                )
            seen[step.name] = step

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, name: str) -> Step:
        return self._by_name[name]

    def of_kind(self, *kinds: str) -> list[Step]:
        """The steps of some kinds, in order."""
        return [step for step in self.steps if step.kind in kinds]

    def to_json(self, created: str, note: str = "") -> str:
        """The plan as the content of `plan.json`."""
        # paths are relative to this folder unless they are absolute
        facts = {"name": self.name, "note": note, "created": created}
        facts["working_folder"] = str(Path.cwd())
        # The report compares the digests with the markers of what has run.
        steps = [{**asdict(step), "digest": step.digest} for step in self.steps]
        return json.dumps({**facts, "steps": steps}, indent=1)


def read_plan(path: Path) -> Plan:
    """Read a `plan.json`.

    Raises:
        ConfigError: There is none, or it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Plan(content["name"], tuple(_step(item) for item in content["steps"]))
    except FileNotFoundError as error:
        raise ConfigError(f"no {path}: give the folder of a study that was started") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is no plan of a study ({error}): start the study again"
        ) from error


def step_name(*words: str | int) -> str:
    """A name for a step that is a safe file name, from words such as encoder and depth."""
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", str(word)) for word in words)


def joint_digest(*steps: Step) -> str:
    """A few letters that change when the command of one of the steps does."""
    return hashlib.sha256("".join(step.digest for step in steps).encode()).hexdigest()[:6]


def _step(item: dict[str, Any]) -> Step:
    lists: dict[str, Sequence[str]] = {
        name: tuple(item[name]) for name in ("argv", "needs", "inputs", "outputs")
    }
    return Step(**{**{key: item[key] for key in item if key != "digest"}, **lists})
