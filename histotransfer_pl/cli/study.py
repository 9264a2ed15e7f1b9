"""The verb `study`: a whole comparison from one YAML."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from histotransfer_pl.cli import answer
from histotransfer_pl.cli.answer import print_line
from histotransfer_pl.cli.main import main
from histotransfer_pl.cli.parser import file_parser
from histotransfer_pl.data.cohort import read_cohort, require_columns
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.done import INTERRUPTED, SLIDES_FAILED
from histotransfer_pl.records.files import write_text
from histotransfer_pl.records.tables import write_table
from histotransfer_pl.runs.arms import group_arms, read_runs, tasks_of
from histotransfer_pl.runs.results import evaluate_arms, results_frame, results_text
from histotransfer_pl.runs.state import DONE, FAILED, WAITING, read_states
from histotransfer_pl.runs.steps import ADDING, PLAN, Plan, read_plan
from histotransfer_pl.runs.study import SETTINGS, Study, load_study
from histotransfer_pl.study.batches import make_batches
from histotransfer_pl.study.config import StudyConfig
from histotransfer_pl.study.plan import make_plan
from histotransfer_pl.study.progress import remaining_steps
from histotransfer_pl.study.runner import Outcome, Runner
from histotransfer_pl.study.settings import parse_settings
from histotransfer_pl.study.snakefile import snakefile
from histotransfer_pl.study.status import (
    count_kinds,
    describe_plan,
    describe_status,
    median_seconds,
    shorten_names,
    time_left,
)
from histotransfer_pl.study.submit import (
    JOBS,
    EngineName,
    Local,
    Slurm,
    Task,
    run_here,
    submit_batches,
)

_FAILED = 1


def study(arguments: list[str]) -> int:
    """Run a comparison of encoders, depths, heads and variants; go on where it stopped.

    Every step is a command of its own. What is done is skipped, what failed is tried again, and a
    step whose command has changed is done again together with what depends on it.
    """
    parser = file_parser("study", study.__doc__)
    parser.add_class_arguments(StudyConfig)
    parser.add_argument(
        "--dry_run", action="store_true", help="Print the command of every step; run none."
    )
    parser.add_argument("--snakefile", type=Path, help="Write the plan as a Snakefile; run none.")
    parser.add_argument(
        "--submit",
        type=EngineName | None,
        help="Run the steps in the queue of a cluster (slurm), or in processes here (local).",
    )
    parser.add_argument("--tasks", type=int, default=4, help="Processes of each stage, at most.")
    parser.add_argument("--status", action="store_true", help="Print how each step stands.")
    parsed = parse_settings(parser, arguments)
    resolved = parser.dump(parsed, skip_none=False, format="yaml")
    values: dict[str, Any] = parser.instantiate(parsed).as_dict()
    dry_run, target = values.pop("dry_run"), values.pop("snakefile")
    engine, tasks = values.pop("submit"), values.pop("tasks")
    status = values.pop("status")
    values.pop("config", None)
    config = StudyConfig(**values)
    plan = make_plan(config)
    if dry_run:
        print_line(describe_plan(plan, config.folder))
        return 0
    if status:
        print_line(describe_status(plan, config.folder))
        return 0
    if target is not None:
        # The report of a study that Snakemake runs reads the same record.
        record(plan, config, resolved)
        write_text(
            target,
            snakefile(plan, config.folder, environment(config), accepted(config), config.resources),
        )
        print_line(f"wrote {target}: {len(plan)} rules")
        answer.record(files=(target,))
        return 0
    check_target(config)
    with only_one(config.folder), variables(environment(config)):
        record(plan, config, resolved)
        if engine is not None:
            return submit(plan, config, engine, tasks)
        return run(plan, config)


def check_target(config: StudyConfig) -> None:
    """Whether the table says what the fits will ask of it: they come after hours of extraction."""
    if config.cohort.is_file():  # prepare may still make it
        table = read_cohort(config.cohort)
        require_columns(table, list(config.targets.columns), config.cohort)
        table = config.targets.read(table)
        config.targets.describe(table[table["label"] != ""])


def record(plan: Plan, config: StudyConfig, resolved: str) -> None:
    """Write what is asked for and what that means."""
    write_text(config.folder / SETTINGS, resolved)
    path = config.folder / PLAN
    here = replace(plan, note=config.note, working_folder=str(Path.cwd()))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_text(path, replace(here, created=_created(path, here) or now).to_json())


def _created(path: Path, plan: Plan) -> str:
    """When the very same plan was made first, so that going on gives the same report."""
    try:
        before = read_plan(path)
    except ConfigError:
        # None yet, or damaged: then it is made now.
        return ""
    return before.created if replace(plan, created=before.created) == before else ""


def run(plan: Plan, config: StudyConfig) -> int:
    """Run what is left, print the results, and return the exit code."""
    left = remaining_steps(plan, config.folder)
    print_line(f"{plan.name}: {len(plan) - len(left)} of {len(plan)} steps are done")
    if left:
        about = time_left(plan, config.folder, left).describe()
        print_line(f"{len(left)} to run ({count_kinds(left)}), {about}")
    outcome = Runner(plan, config.folder, run_step, accepted(config)).run()
    print_results(load_study(config.folder))
    return print_outcome(outcome, config.folder)


def run_step(words: Sequence[str]) -> int:
    """Run a verb whose answer is no part of the study's."""
    with answer.apart():
        return main(words)


def submit(plan: Plan, config: StudyConfig, name: EngineName, tasks: int) -> int:
    """Hand what is left to an engine, and return the exit code.

    Raises:
        ConfigError: The engine is not here.
    """
    task = Task(config.folder, (), main, accepted(config), environment(config))
    left = remaining_steps(plan, config.folder)
    seconds = median_seconds(plan, config.folder)
    batches = make_batches(plan, left, config.resources, tasks, seconds)
    print_line(f"{plan.name}: {len(left)} of {len(plan)} steps to run, in {len(batches)} tasks")
    if name == "slurm":
        jobs = submit_batches(Slurm(config.folder / JOBS), task, batches)
        print_line(f"queued: {shorten_names([job.job_id for job in jobs]) or 'nothing'}")
        print_line("how they stand: the same command with --status instead of --submit")
        return 0
    interrupted = run_here(Local(config.folder / JOBS, tasks), task, batches)
    print_results(load_study(config.folder))
    states = read_states(config.folder, plan)
    failed = [name for name, state in states.items() if state.state == FAILED]
    waiting = [name for name, state in states.items() if state.state == WAITING]
    return print_outcome(Outcome([], failed, waiting, interrupted), config.folder)


def print_results(found: Study) -> None:
    """The table of results of what is finished; one per task."""
    folder = Path(str(found.folder)) / "report"
    runs, _ = read_runs(found.runs)
    for number, arms in enumerate(tasks_of(group_arms(runs)[0])):
        results = evaluate_arms(arms)
        table = folder / "tables" / f"results{f'_{number + 1}' if number else ''}.csv"
        write_table(table, results_frame(results))
        print_line(f"\n{results_text(results)}\n\nwrote {table}")
        scores = {r.arm.label: r.score.estimate for r in results if r.score is not None}
        answer.record(files=(table,), metrics={"auroc": scores})
    if (folder / "index.html").is_file() and all(
        state.state == DONE for name, state in found.states.items() if name == "report"
    ):
        print_line(f"the report: {folder / 'index.html'}")
        answer.record(files=(folder / "index.html",))


def print_outcome(outcome: Outcome, folder: Path) -> int:
    """Say what did not work, and return the exit code."""
    if outcome.interrupted:
        sys.stderr.write("interrupted; the same command goes on from here\n")
        return INTERRUPTED
    answer.record(failures={name: f"see {folder / 'logs' / name}.log" for name in outcome.failed})
    for name in outcome.failed:
        sys.stderr.write(f"failed: {name}, see {folder / 'logs' / name}.log\n")
    if outcome.blocked:
        what = "what failed" if outcome.failed else "another process"
        sys.stderr.write(f"{len(outcome.blocked)} steps wait for {what}\n")
    return _FAILED if outcome.failed or outcome.blocked else 0


def accepted(config: StudyConfig) -> dict[str, int]:
    """Exit codes of kinds of steps that count as done, beside 0."""
    return dict.fromkeys(ADDING, SLIDES_FAILED) if config.lost_slides == "leave_out" else {}


def environment(config: StudyConfig) -> dict[str, str]:
    """Variables of every command of the study."""
    return {} if config.wandb else {"WANDB_MODE": "disabled"}


@contextmanager
def variables(wanted: dict[str, str]) -> Iterator[None]:
    """Set environment variables, and put them back."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Refuse to run a study twice at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"another process is running the study in {folder}: wait for it, or give another "
            "study_dir"
        ) from error
    try:
        yield
    finally:
        lock.release()
