"""Runs the steps of a study in this process, one after the other."""

import gc
import io
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Self, TextIO

import torch
from typing_extensions import override

from histotransfer_pl.records.done import INTERRUPTED, TERMINATED
from histotransfer_pl.runs.state import (
    DONE,
    FAILED,
    WAITING,
    StepState,
    clear_marks,
    files_behind,
    mark_done,
    mark_failed,
    measured_seconds,
    read_states,
    running,
)
from histotransfer_pl.runs.steps import TOLERANT, Plan, Step
from histotransfer_pl.study.progress import estimate, is_done, remaining_steps

Main = Callable[[Sequence[str]], int]
"""Runs a verb with its settings and returns the exit code."""

_LARGE = frozenset({"extract", "extract_tuned", "finetune", "similarity", "gain", "cost"})
"""Kinds of steps that hold networks and patches in memory."""


@dataclass
class Outcome:
    """How a study ended: names of steps."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    interrupted: bool = False


class Interruption:
    """While it lasts, SIGINT and SIGTERM raise KeyboardInterrupt and are remembered.

    Lightning turns an interruption of a Trainer into exit code 1 and ignores SIGINT from then on;
    without this, a study would take Ctrl-C for a failed step and go on with the next one.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        """Watch for some signals; for both when none is named."""
        self.asked = False
        self.leaving = False  # whether an engine ends this process by SystemExit
        self._signals = signals or (signal.SIGINT, signal.SIGTERM)
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Python lets only the main thread set handlers; elsewhere signals do what they did.
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        raise KeyboardInterrupt


@dataclass
class Runner:
    """Runs what is left of a plan.

    Args:
        plan: The steps.
        folder: Folder of the study.
        main: Runs a step.
        accepted: Exit codes of a kind of step that count as done, beside 0.
        only: Names of the steps to run; all when None. Others are left to other processes.
        interruption: What ends the run early.
    """

    plan: Plan
    folder: Path
    main: Main
    accepted: Mapping[str, int] = field(default_factory=dict)
    only: Collection[str] | None = None
    interruption: Interruption = field(default_factory=Interruption)
    threads: int = field(default_factory=torch.get_num_threads, init=False)

    def run(self) -> Outcome:
        """Run what is not done yet; stop at an interruption, not at a failure."""
        left = remaining_steps(self.plan, self.folder)
        mine = left if self.only is None else [step for step in left if step.name in self.only]
        states = read_states(self.folder, self.plan)
        measured = measured_seconds(self.plan, states)
        kinds = Counter(step.kind for step in mine)
        # Nobody here runs these, so what needs them cannot be run either.
        missing = {step.name for step in left} - {step.name for step in mine}
        for step in mine:
            if states[step.name].state == FAILED:
                clear_marks(self.folder, step)
        terminal = sys.stdout
        outcome = Outcome()
        streams = RedirectableStream(sys.stdout)
        with redirect_stdout(streams), redirect_stderr(streams), self.interruption:
            for number, step in enumerate(mine, 1):
                state = self._attempt(step, streams, missing)
                if state is None:
                    outcome.interrupted = True
                    break
                _enter(outcome, step, state, missing)
                kinds[step.kind] -= 1
                if state.state == DONE and state.seconds is not None:
                    measured.setdefault(step.kind, []).append(state.seconds)
                head = f"[{number:>{len(str(len(mine)))}}/{len(mine)}] {step.name}"
                rest = estimate(kinds, measured).describe()
                terminal.write(f"{head}  {_describe(state)}  {rest}\n")
                terminal.flush()
        torch.set_num_threads(self.threads)
        return outcome

    def _attempt(
        self, step: Step, streams: "RedirectableStream", missing: set[str]
    ) -> StepState | None:
        """Run a step unless something it needs is missing; None if it was interrupted."""
        lacking = [need for need in step.needs if need in missing]
        if lacking and step.kind not in TOLERANT:
            return StepState(WAITING, error=f"needs {lacking[0]}, which failed or waits")
        with running(self.folder, step) as allowed:
            if not allowed:
                return StepState(WAITING, error="another process runs it")
            if is_done(self.plan, step, self.folder):
                # By another process, since this one began.
                return StepState(DONE)
            return self._run(step, streams)

    def _run(self, step: Step, streams: "RedirectableStream") -> StepState | None:
        log = self.folder / "logs" / f"{step.name}.log"
        torch.set_num_threads(step.threads or self.threads)
        # A killed repetition must not pass for the finished run before it.
        clear_marks(self.folder, step)
        # Before it runs: what changes meanwhile may not have been read.
        read = files_behind(self.folder, self.plan, step)
        start = time.perf_counter()
        with streams.writing_to(log):
            streams.write(f"$ {step.command}\n")
            code = self._exit_code(step)
        seconds = round(time.perf_counter() - start, 2)
        if step.kind in _LARGE:
            # A Trainer and what it trained refer to each other in circles: without this, encoders
            # and decoded patches of a step outlive it by minutes. It takes too long for every fit.
            gc.collect()
        if code in (INTERRUPTED, TERMINATED) or self.interruption.asked:
            return None
        lacking = [name for name in step.outputs if not Path(name).exists()]
        if code not in (0, self.accepted.get(step.kind, 0)):
            state = StepState(FAILED, seconds, last_line(log))
        elif lacking:
            state = StepState(FAILED, seconds, f"it ended well but did not write {lacking[0]}")
        else:
            mark_done(self.folder, step, seconds, read)
            return StepState(DONE, seconds)
        mark_failed(self.folder, step, state)
        return state

    def _exit_code(self, step: Step) -> int:
        """The exit code of a step, whatever way it ends."""
        try:
            return self.main(step.argv)
        except SystemExit as error:
            if self.interruption.leaving:
                # Of the engine that runs this process, with a code of its own.
                raise
            # The parser of a verb leaves like this when a setting is wrong.
            return error.code if isinstance(error.code, int) else 1
        except KeyboardInterrupt:
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001
            # One run out of hundreds may meet a bug or run out of memory; the others of the night
            # must not be lost with it. Its log has the trace, the study ends with a failure.
            traceback.print_exc()
            sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
            return 1


def _enter(outcome: Outcome, step: Step, state: StepState, missing: set[str]) -> None:
    {DONE: outcome.done, FAILED: outcome.failed}.get(state.state, outcome.blocked).append(step.name)
    if state.state != DONE:
        missing.add(step.name)


def _describe(state: StepState) -> str:
    seconds = "" if state.seconds is None else f"{state.seconds:.1f} s"
    return f"{state.state:<7} {seconds:>8}" + (f"  {state.error}" if state.error else "")


class RedirectableStream(io.TextIOBase):
    """A text stream that can be pointed at another file.

    Stands for stdout and stderr during a whole study: what is imported in the first step and
    keeps the stream (log handlers do) still writes to the right file in the second.
    """

    def __init__(self, target: TextIO) -> None:
        self._target = target

    @override
    def write(self, text: str) -> int:
        return self._target.write(text)

    @override
    def flush(self) -> None:
        # The end of the program closes both in any order, and Python 3.13 says so aloud.
        if not self._target.closed:
            self._target.flush()

    @override
    def writable(self) -> bool:
        return True

    @property
    @override
    def encoding(self) -> str:  # type: ignore[override]
        """Of the target."""
        return self._target.encoding

    @contextmanager
    def writing_to(self, path: Path) -> Iterator[None]:
        """Write into a file, anew, for as long as the context lasts."""
        path.parent.mkdir(parents=True, exist_ok=True)
        before = self._target
        with path.open("w", encoding="utf-8", errors="backslashreplace", buffering=1) as file:
            self._target = file
            try:
                yield
            finally:
                self._target = before


def last_line(path: Path) -> str:
    """The line of a log that says most likely what went wrong."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it said nothing"])[-1]
