"""How each step of a study stands: files of its folder, which all processes of all machines share.

`done/<step>` says that it ran to its end, `failed/<step>` why it did not, `running/<step>` is
locked while a process runs it; what has none of them waits.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import FileLock, Timeout

from histotransfer_pl.records.files import sha256_of, write_text
from histotransfer_pl.runs.steps import ADDING, Plan, Step

Standing = Literal["done", "failed", "running", "waiting"]
DONE: Standing = "done"
FAILED: Standing = "failed"
RUNNING: Standing = "running"
WAITING: Standing = "waiting"

_LOCK_SECONDS = 1.0
"""Who asks for the standing holds the lock for an instant."""


@dataclass(frozen=True)
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


class FileSeen(NamedTuple):
    """A file as a step read it."""

    size: int
    time_ns: int
    sha256: str


FilesSeen = dict[str, FileSeen]
"""By path as the plan names it."""


@dataclass(frozen=True)
class _Mark:
    """What a marker says.

    Attributes:
        first: The digest of the command, or why it failed.
        seconds: How long it took; markers of Snakemake do not say it.
        read: What it read; neither do they say that.
    """

    first: str = ""
    seconds: float | None = None
    read: FilesSeen | None = None


def read_states(
    folder: Path, plan: Plan, exists: Callable[[str], bool] = lambda name: Path(name).exists()
) -> dict[str, StepState]:
    """The states of the steps of a plan, by name."""
    states: dict[str, StepState] = {}
    present = {kind: _names(folder / kind) for kind in (DONE, FAILED, RUNNING)}
    stopped: set[str] = set()
    for step in plan:
        state = _state(folder, step, present, exists)
        missing = [need for need in step.needs if need in stopped]
        if state.state == WAITING and missing:
            state = StepState(WAITING, error=f"needs {missing[0]}, which failed or waits")
        if state.state == FAILED or state.error:
            stopped.add(step.name)
        states[step.name] = state
    return states


def measured_seconds(plan: Plan, states: Mapping[str, StepState]) -> dict[str, list[float]]:
    """Seconds of the finished steps of each kind."""
    seconds: dict[str, list[float]] = {}
    for step in plan:
        state = states[step.name]
        if state.state == DONE and state.seconds is not None:
            seconds.setdefault(step.kind, []).append(state.seconds)
    return seconds


def marker(folder: Path, step: Step) -> Path:
    """The file that says that a step is done."""
    return folder / DONE / step.name


def mark_done(
    folder: Path, step: Step, seconds: float | None = None, read: FilesSeen | None = None
) -> None:
    """Say that a step is done, how long it took, and what it read."""
    _write(marker(folder, step), step.digest, seconds, read)


def files_behind(folder: Path, plan: Plan, step: Step) -> FilesSeen:
    """The files behind a step as they are now."""
    return {str(path): _see(path) for path in _behind(folder, plan, step)}


def mark_failed(folder: Path, step: Step, state: StepState) -> None:
    """Say why a step failed."""
    _write(folder / FAILED / step.name, state.error, state.seconds)


def clear_marks(folder: Path, step: Step) -> None:
    """Forget how a step ended."""
    for kind in (DONE, FAILED):
        (folder / kind / step.name).unlink(missing_ok=True)


def is_marked(folder: Path, step: Step) -> bool:
    """Whether the marker says that this very command has run to its end."""
    return _read(marker(folder, step)).first == step.digest


def is_up_to_date(folder: Path, plan: Plan, step: Step) -> bool:
    """Whether the files behind a finished step are those that it read, where they are at hand.

    What they hold decides: data copied or mounted again have other times, and would repeat hours
    of work; an older table put back has an older one. Markers of Snakemake know times alone.
    """
    own, paths = marker(folder, step), _behind(folder, plan, step)
    read = _read(own).read
    if read is None:
        finished = own.stat().st_mtime_ns
        return all(path.stat().st_mtime_ns <= finished for path in paths)
    return all(_is_as_seen(path, read.get(str(path))) for path in paths)


@contextmanager
def running(folder: Path, step: Step) -> Iterator[bool]:
    """Whether this process may run a step, for the length of the block; else another one does.

    The system gives the lock back when its holder dies, so nothing has to be cleared.
    """
    lock = FileLock(folder / RUNNING / step.name)
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        # Removed while still held: whoever opened it meanwhile sees that it has no name any more.
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


def is_running(folder: Path, name: str) -> bool:
    """Whether a process runs a step now."""
    path = folder / RUNNING / name
    if not path.exists():
        return False
    try:
        with FileLock(path).acquire(timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _state(
    folder: Path,
    step: Step,
    present: Mapping[Standing, set[str]],
    exists: Callable[[str], bool],
) -> StepState:
    if step.name in present[RUNNING] and is_running(folder, step.name):
        return StepState(RUNNING)
    if step.name in present[DONE]:
        found = _read(marker(folder, step))
        if found.first == step.digest and all(exists(output) for output in step.outputs):
            return StepState(DONE, found.seconds)
    if step.name in present[FAILED]:
        failed = _read(folder / FAILED / step.name)
        return StepState(FAILED, failed.seconds, failed.first)
    return StepState()


def _names(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _behind(folder: Path, plan: Plan, step: Step) -> list[Path]:
    """The files that are there of those it reads, and the markers of what it needs."""
    needs = [plan[need] for need in step.needs]
    paths = [Path(name) for name in step.inputs]
    paths += [marker(folder, need) for need in needs if need.kind not in ADDING]
    return [path for path in paths if path.is_file()]


def _see(path: Path) -> FileSeen:
    found = path.stat()
    return FileSeen(found.st_size, found.st_mtime_ns, sha256_of(path))


def _is_as_seen(path: Path, seen: FileSeen | None) -> bool:
    if seen is None:
        return False
    found = path.stat()
    return (found.st_size, found.st_mtime_ns) == seen[:2] or sha256_of(path) == seen.sha256


def _write(
    path: Path, first: str, seconds: float | None = None, read: FilesSeen | None = None
) -> None:
    took = "" if seconds is None else f"{seconds:.2f}"
    seen = "" if read is None else json.dumps(read)
    # The time tells a repetition from the run before it, to those that read the marker.
    write_text(path, "\n".join((first, took, seen, str(time.time_ns()))) + "\n")


def _read(path: Path) -> _Mark:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        first, took, seen = (lines + [""] * 3)[:3]
        read = {k: FileSeen(*v) for k, v in json.loads(seen).items()} if seen else None
        return _Mark(first.strip(), float(took) if took else None, read)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, AttributeError):
        # Absent, or damaged by hand: then it is done again.
        return _Mark()
