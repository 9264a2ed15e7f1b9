"""What a verb answers: lines for people, and one JSON object for programs."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Answer:
    """The answer of one verb.

    Attributes:
        verb: The verb.
        exit_code: See ``docs/reference/cli.md``.
        done: What was said, line by line.
        files: What was written.
        metrics: Numbers that were measured.
        failures: What failed, by slide or subject, and why.
        error: Why the verb ended early; empty if it did not.
    """

    verb: str
    exit_code: int = 0
    done: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    error: str = ""


_open: list[Answer] = []


def print_line(text: str) -> None:
    """One line of the answer of a verb."""
    for answer in _open:
        answer.done += text.splitlines()
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def record(
    *,
    files: tuple[Path | str, ...] = (),
    metrics: Mapping[str, Any] | None = None,
    failures: Mapping[str, str] | None = None,
) -> None:
    """Facts of the answer that a program wants; people read them in the lines."""
    for answer in _open:
        answer.files += [str(path) for path in files]
        answer.metrics |= metrics or {}
        answer.failures |= failures or {}


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """What is answered inside belongs to no verb outside: a step of a study answers to its log."""
    outside = [*_open]
    _open.clear()
    try:
        yield
    finally:
        _open[:] = outside


@contextlib.contextmanager
def as_json(verb: str) -> Iterator[Answer]:
    """Everything that is printed goes to stderr; one object goes to stdout at the end."""
    answer, stdout = Answer(verb), sys.stdout
    _open.append(answer)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield answer
    finally:
        _open.remove(answer)
        stdout.write(json.dumps(asdict(answer), default=str) + "\n")
        stdout.flush()
