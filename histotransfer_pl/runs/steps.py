"""The plan of a study: its steps and their order, written and read here only."""

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from histotransfer_pl.errors import ConfigError

PLAN = "plan.json"

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

    @property
    def run_folder(self) -> Path:
        """The run folder of a step that has one."""
        return Path(str(self.option("run_dir")))

    def option(self, name: str) -> str | None:
        """The value of ``--name VALUE`` or ``--name=VALUE``."""
        return option_value(self.argv, name)


@dataclass(frozen=True)
class Plan:
    """The steps of a study, each behind what it needs.

    Attributes:
        name: Name of the study.
        steps: The steps.
        note: What the study says of itself, for the top of the report.
        created: When it was planned first.
        working_folder: Folder in which it was made; its paths are relative to it.
    """

    name: str
    steps: tuple[Step, ...]
    note: str = ""
    created: str = ""
    working_folder: str = "."
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

    def to_json(self) -> str:
        """The plan as the content of `plan.json`."""
        facts = {key: getattr(self, key) for key in ("name", "note", "created", "working_folder")}
        return json.dumps({**facts, "steps": [asdict(step) for step in self.steps]}, indent=1)


def read_plan(path: Path) -> Plan:
    """Read a `plan.json`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        steps = tuple(_step(item) for item in content["steps"])
        texts = {key: str(content[key]) for key in ("note", "created") if content.get(key)}
        where = str(content.get("working_folder", "."))
        name = str(content.get("name") or path.resolve().parent.name)
        return Plan(name, steps, **texts, working_folder=where)
    except FileNotFoundError as error:
        raise ConfigError(
            f"no {PLAN} in {path.parent}: give the folder of a study (python -m histotransfer_pl "
            "study makes one), or plain run folders with --runs"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no plan of a study ({type(error).__name__}: {error}): start the study again"
        ) from error


def option_value(words: Sequence[str], name: str) -> str | None:
    """The value of ``--name VALUE`` or ``--name=VALUE`` among words of a command line."""
    for place, word in enumerate(words):
        if word == f"--{name}" and place + 1 < len(words):
            return words[place + 1]
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    return None


def joint_digest(*steps: Step) -> str:
    """A few letters that change when the command of one of the steps does."""
    return hashlib.sha256("".join(step.digest for step in steps).encode()).hexdigest()[:6]


def _step(item: dict[str, Any]) -> Step:
    lists: dict[str, Any] = {
        name: tuple(map(str, item.get(name, ()))) for name in ("argv", "needs", "inputs", "outputs")
    }
    factors = dict(item.get("factors") or {})
    if "weights" in factors:
        # plans of earlier releases do not say it
        factors.setdefault("weights_kind", weights_kind(str(factors["weights"])))
    given = {key: item[key] for key in ("name", "kind", "threads", "reads") if key in item}
    return Step(**given, **lists, factors=factors)


def weights_kind(weights: str) -> str:
    """What the setting `weights` of an encoder asks for: random ones, or trained ones."""
    return weights if weights in ("random", "imported") else "pretrained"
