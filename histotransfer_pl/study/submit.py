"""Steps of a study as tasks of a cluster's queue, or of several processes here, by submitit.

Queues, retries and preemption are the engine's. A task runs its steps as a local run does, with the
same markers, so that either goes on where the other stopped.
"""

import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.runs.steps import PLAN, read_plan
from histotransfer_pl.study.batches import Batch
from histotransfer_pl.study.runner import Interruption, Main, Outcome, Runner

EngineName = Literal["slurm", "local"]

JOBS = "jobs"
"""Folder of what submitit keeps of each task, with its output."""

_POLL_SECONDS = 0.2
_REQUEUES = 100
"""A task that comes to its time is queued again: a study may take longer than a task may."""
_NO_LIMIT = 60 * 24 * 365


@dataclass(frozen=True)
class Task:
    """Steps that one process runs in order.

    Attributes:
        folder: Folder of the study.
        steps: Names of the steps.
        main: Runs a step.
        accepted: Exit codes of a kind of step that count as done, beside 0.
        environment: Variables of every command.
        threads: Threads to compute with; None leaves it as it is.
    """

    folder: Path
    steps: tuple[str, ...]
    main: Main
    accepted: Mapping[str, int]
    environment: Mapping[str, str]
    threads: int | None = None
    _interruption: Interruption = field(
        init=False, repr=False, compare=False, default_factory=lambda: Interruption(signal.SIGINT)
    )

    def __call__(self) -> Outcome:
        """Run what is not done yet."""
        os.environ.update(self.environment)
        # Lightning would take the task for one rank of a job that SLURM has started for it.
        os.environ["SLURM_JOB_NAME"] = "interactive"
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        outcome = Runner(
            read_plan(self.folder / PLAN),
            self.folder,
            self.main,
            self.accepted,
            only=set(self.steps),
            interruption=self._interruption,
        ).run()
        if outcome.interrupted:
            # The engine has warned this process. It now kills it, or asks it to queue again.
            signal.pause()
        return outcome

    def checkpoint(self) -> Any:
        """What runs when the task is queued again, before its time is over or for another job."""
        from submitit.helpers import DelayedSubmission

        self._interruption.asked = self._interruption.leaving = True
        return DelayedSubmission(replace(self))


class Job(Protocol):
    """A task that was handed to an engine."""

    @property
    def job_id(self) -> str:
        """Its name in the queue."""
        ...

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        ...

    def cancel(self) -> None:
        """End it."""
        ...


class Slurm:
    """The queue of a cluster; tasks wait in it for those they need.

    Raises:
        ConfigError: There is no SLURM here.
    """

    def __init__(self, folder: Path) -> None:
        require_submitit()
        if not all(map(shutil.which, ("srun", "sbatch"))):
            raise ConfigError(
                "--submit slurm needs srun and sbatch, which are not on this machine: run it on "
                "a login node of the cluster, or give --submit local"
            )
        self._folder = folder

    def submit(self, task: Task, batch: Batch, after: Sequence[Job]) -> Job:
        """Queue a task."""
        from submitit import SlurmExecutor

        asked = batch.resources
        chosen: dict[str, Any] = {
            "job_name": batch.name,
            "time": asked.minutes,
            "mem": None if asked.mem_gb is None else f"{asked.mem_gb * 1024:.0f}MB",
            "cpus_per_task": asked.cpus,
            "gpus_per_node": asked.gpus,
            "partition": asked.partition,
            # Not afterok: a report says what is missing, and steps say themselves what they lack.
            "dependency": "afterany:" + ":".join(job.job_id for job in after) if after else None,
            "additional_parameters": {"requeue": True, **asked.sbatch},
        }
        executor = SlurmExecutor(self._folder, max_num_timeout=_REQUEUES)
        executor.update_parameters(**{k: v for k, v in chosen.items() if v is not None})
        return executor.submit(replace(task, threads=asked.cpus))


class Local:
    """Processes of this machine, so many at once."""

    def __init__(self, folder: Path, tasks: int) -> None:
        require_submitit()
        if tasks < 1:
            raise ConfigError(f"--tasks is {tasks}, expected 1 or more")
        self._folder = folder
        self._tasks = tasks
        self._jobs: list[Job] = []

    def submit(self, task: Task, batch: Batch, after: Sequence[Job]) -> Job:
        """Start a task, as soon as those that it needs have ended and there is room."""
        from submitit import LocalExecutor

        while not all(job.done() for job in after) or self._running() >= self._tasks:
            time.sleep(_POLL_SECONDS)
        gpus = _visible_gpus()
        asked = batch.resources
        executor = LocalExecutor(self._folder, max_num_timeout=_REQUEUES)
        executor.update_parameters(
            timeout_min=_NO_LIMIT,
            visible_gpus=gpus,
            gpus_per_node=len(gpus) if asked.gpus is None else asked.gpus,
        )
        threads = asked.cpus or max(1, torch.get_num_threads() // self._tasks)
        job: Job = executor.submit(replace(task, threads=threads))
        self._jobs.append(job)
        return job

    def wait(self) -> None:
        """Until all have ended."""
        while self._running():
            time.sleep(_POLL_SECONDS)

    def cancel(self) -> None:
        """End all that run."""
        for job in self._jobs:
            if not job.done():
                job.cancel()
        self.wait()

    def _running(self) -> int:
        return sum(not job.done() for job in self._jobs)


def require_submitit() -> None:
    """Refuse to submit without the library that does it."""
    if find_spec("submitit") is None:
        raise ConfigError(
            '--submit needs the package submitit: pip install "histotransfer_pl[cluster]"'
        )


def submit_batches(engine: Slurm | Local, task: Task, batches: Sequence[Batch]) -> list[Job]:
    """Hand over all batches, in order."""
    jobs: list[Job] = []
    for batch in batches:
        own = replace(task, steps=batch.steps)
        jobs.append(engine.submit(own, batch, [jobs[place] for place in batch.after]))
    return jobs


def run_here(engine: Local, task: Task, batches: Sequence[Batch]) -> bool:
    """Run all batches to their end; whether that was interrupted."""
    interruption = Interruption()
    try:
        with interruption:
            submit_batches(engine, task, batches)
            engine.wait()
    except KeyboardInterrupt:
        engine.cancel()
    return interruption.asked


def _visible_gpus() -> tuple[int, ...]:
    """Numbers of the GPUs that this process may use."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if all(name.strip().isdecimal() for name in named):
        return tuple(map(int, named))
    return tuple(range(torch.cuda.device_count()))
