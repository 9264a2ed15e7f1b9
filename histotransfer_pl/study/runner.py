"""Runs the steps of a study in this process, one after the other."""

import gc
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import torch

from histotransfer_pl.runs.state import StepState, StudyState, mark_done, marker
from histotransfer_pl.runs.steps import TOLERANT, Plan, Step
from histotransfer_pl.study.interrupt import Interruption
from histotransfer_pl.study.output import RedirectableStream, last_line
from histotransfer_pl.study.progress import estimate, remaining_steps

Main = Callable[[Sequence[str]], int]
"""Runs a verb with its settings and returns the exit code."""

INTERRUPTED = 130
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
    """

    def __init__(
        self, plan: Plan, folder: Path, main: Main, accepted: dict[str, int] | None = None
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.main = main
        self.accepted = accepted or {}
        self.state = StudyState.read(folder, plan.steps)
        self.threads = torch.get_num_threads()
        self.interruption = Interruption()

    def run(self) -> Outcome:
        """Run what is not done yet; stop at an interruption, not at a failure."""
        left = remaining_steps(self.plan, self.folder)
        self._begin(left)
        terminal = sys.stdout
        outcome = Outcome()
        streams = RedirectableStream(sys.stdout)
        with redirect_stdout(streams), redirect_stderr(streams), self.interruption:
            for number, step in enumerate(left):
                state = self._attempt(step, streams, outcome)
                if state is None:
                    outcome.interrupted = True
                    break
                rest = estimate(left[number + 1 :], self.state.measured(self.plan.steps))
                head = f"[{number + 1:>{len(str(len(left)))}}/{len(left)}] {step.name}"
                terminal.write(f"{head}  {_describe(state)}  {rest.describe()}\n")
                terminal.flush()
        torch.set_num_threads(self.threads)
        return outcome

    def _begin(self, left: list[Step]) -> None:
        """What is done stays done in the record, everything else waits."""
        names = {step.name for step in left}
        for name, state in self.state.steps.items():
            if name in names:
                # A time of an earlier attempt is still the best guess of the next one.
                self.state.steps[name] = StepState("waiting", state.seconds)
            else:
                self.state.steps[name] = StepState("done", state.seconds)
        self.state.write()

    def _attempt(
        self, step: Step, streams: RedirectableStream, outcome: Outcome
    ) -> StepState | None:
        """Run a step unless something it needs is missing; None if it was interrupted."""
        missing = [need for need in step.needs if need in {*outcome.failed, *outcome.blocked}]
        if missing and step.kind not in TOLERANT:
            state = StepState("waiting", error=f"needs {missing[0]}, which failed or waits")
            outcome.blocked.append(step.name)
        else:
            found = self._run(step, streams)
            if found is None:
                return None
            state = found
            (outcome.done if state.state == "done" else outcome.failed).append(step.name)
        self.state.set(step.name, state)
        return state

    def _run(self, step: Step, streams: RedirectableStream) -> StepState | None:
        log = self.folder / "logs" / f"{step.name}.log"
        torch.set_num_threads(step.threads or self.threads)
        # A killed repetition must not pass for the finished run before it.
        marker(self.folder, step).unlink(missing_ok=True)
        start = time.perf_counter()
        with streams.writing_to(log):
            streams.write(f"$ {step.command}\n")
            code = self._exit_code(step)
        seconds = round(time.perf_counter() - start, 2)
        if step.kind in _LARGE:
            # A Trainer and what it trained refer to each other in circles: without this, encoders
            # and decoded patches of a step outlive it by minutes. It takes too long for every fit.
            gc.collect()
        if code == INTERRUPTED or self.interruption.asked:
            return None
        if code not in (0, self.accepted.get(step.kind, 0)):
            return StepState("failed", seconds, last_line(log))
        missing = [name for name in step.outputs if not Path(name).exists()]
        if missing:
            return StepState("failed", seconds, f"it ended well but did not write {missing[0]}")
        mark_done(self.folder, step)
        return StepState("done", seconds)

    def _exit_code(self, step: Step) -> int:
        """The exit code of a step, whatever way it ends."""
        try:
            return self.main(step.argv)
        except SystemExit as error:
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


def _describe(state: StepState) -> str:
    seconds = "" if state.seconds is None else f"{state.seconds:.1f} s"
    return f"{state.state:<7} {seconds:>8}" + (f"  {state.error}" if state.error else "")
