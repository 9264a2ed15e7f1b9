"""Runs the steps of a study in this process, one after the other."""

import gc
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import torch

from histotransfer_pl.runs.state import (
    DONE,
    FAILED,
    WAITING,
    StepState,
    clear_marks,
    mark_done,
    mark_failed,
    measured_seconds,
    read_states,
    running,
)
from histotransfer_pl.runs.steps import TOLERANT, Plan, Step
from histotransfer_pl.study.interrupt import Interruption
from histotransfer_pl.study.output import RedirectableStream, last_line
from histotransfer_pl.study.progress import estimate, is_done, remaining_steps

Main = Callable[[Sequence[str]], int]
"""Runs a verb with its settings and returns the exit code."""

INTERRUPTED, TERMINATED = 130, 143
_LARGE = frozenset({"extract", "extract_tuned", "finetune", "similarity", "gain", "cost"})
"""Kinds of steps that hold networks and patches in memory."""


@dataclass
class Outcome:
    """How a study ended: names of steps."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    interrupted: bool = False


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

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        main: Main,
        accepted: dict[str, int] | None = None,
        only: Collection[str] | None = None,
        interruption: Interruption | None = None,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.main = main
        self.accepted = accepted or {}
        self.only = only
        self.threads = torch.get_num_threads()
        self.interruption = interruption or Interruption()

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
        self, step: Step, streams: RedirectableStream, missing: set[str]
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

    def _run(self, step: Step, streams: RedirectableStream) -> StepState | None:
        log = self.folder / "logs" / f"{step.name}.log"
        torch.set_num_threads(step.threads or self.threads)
        # A killed repetition must not pass for the finished run before it.
        clear_marks(self.folder, step)
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
            mark_done(self.folder, step, seconds)
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
