"""The verb `study`: a whole comparison from one YAML."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from jsonargparse import get_loader

from histotransfer_pl.cli.main import main
from histotransfer_pl.cli.parser import FileParser
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.files import write_text
from histotransfer_pl.records.tables import write_table
from histotransfer_pl.runs.arms import group_arms, read_runs, tasks_of
from histotransfer_pl.runs.results import evaluate_arms, results_frame, results_text
from histotransfer_pl.runs.state import (
    DONE,
    FAILED,
    WAITING,
    read_states,
)
from histotransfer_pl.runs.steps import ADDING, PLAN, Plan, read_plan
from histotransfer_pl.runs.study import SETTINGS, Study, load_study
from histotransfer_pl.study.batches import make_batches
from histotransfer_pl.study.config import StudyConfig
from histotransfer_pl.study.heads import check_heads
from histotransfer_pl.study.options import merge, override
from histotransfer_pl.study.plan import make_plan
from histotransfer_pl.study.progress import remaining_steps
from histotransfer_pl.study.runner import INTERRUPTED, Outcome, Runner
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

_PASSED_ON = ("fit", "extract", "tuning.fit", "heads", "resources")
"""Sections whose settings belong to other verbs."""

_SLIDES_LOST = 3
_FAILED = 1


def study(arguments: list[str]) -> int:
    """Run a comparison of encoders, depths, heads and variants; go on where it stopped.

    Every step is a command of its own. What is done is skipped, what failed is tried again, and a
    step whose command has changed is done again together with what depends on it.
    """
    parser = FileParser(
        prog="python -m histotransfer_pl study",
        description=(study.__doc__ or "").split("\n\n", 1)[0],
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with the settings below.")
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
    arguments, changes = split_overrides(arguments)
    parsed = parser.parse_args(arguments)
    merge_files(arguments, parsed)
    for section, name, value in changes:
        override(parsed[section], name, value)
    # What was overridden the parser has not seen: its own checks would end in a traceback.
    check_heads(parsed["heads"])
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
        write_text(target, snakefile(plan, config.folder, environment(config), accepted(config)))
        print_line(f"wrote {target}: {len(plan)} rules")
        return 0
    with only_one(config.folder), variables(environment(config)):
        record(plan, config, resolved)
        if engine is not None:
            return submit(plan, config, engine, tasks)
        return run(plan, config)


def split_overrides(arguments: list[str]) -> tuple[list[str], list[tuple[str, str, Any]]]:
    """Take ``--fit.trainer.max_epochs 3`` and the like out of the arguments.

    The parser would put them in the place of the whole section.

    Returns:
        The other arguments; and section, dotted name and value of each of these.
    """
    kept: list[str] = []
    changes: list[tuple[str, str, Any]] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        section = next((s for s in _PASSED_ON if option.startswith(f"--{s}.")), None)
        if section is None:
            kept.append(word)
            continue
        text = value if equals else next(words, None)
        if text is None or text.startswith("--"):
            raise ConfigError(f"{option} has no value")
        changes.append((section, option.removeprefix(f"--{section}."), read_value(text, option)))
    return kept, changes


def read_value(text: str, where: str) -> Any:
    """What a text means to the parser, to which 1e-4 is a number and a date is a word.

    Raises:
        ConfigError: It is no YAML.
    """
    try:
        return get_loader("yaml")(text)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{where} has {text!r}, expected YAML ({reason}): correct it, or put it in quotes"
        ) from error


def merge_files(arguments: Sequence[str], parsed: Any) -> None:
    """Settings of other verbs, key by key over several files.

    The parser does so with all others; of these it keeps what the last file says.
    """
    files = [read_file(word) for word in values_of("--config", arguments)]
    if len(files) < 2:
        return
    for section in _PASSED_ON:
        *outer, _ = section.split(".")
        if any(values_of(f"--{name}", arguments) for name in (section, *outer)):
            # A whole section on the command line is what it says.
            continue
        found = [reduce(_inside, section.split("."), content) for content in files]
        if merged := reduce(merge, found):
            parsed[section] = merged


def _inside(settings: dict[str, Any], key: str) -> dict[str, Any]:
    inner = settings.get(key)
    return inner if isinstance(inner, dict) else {}


def values_of(option: str, arguments: Sequence[str]) -> list[str]:
    """The values of an option that may be given several times."""
    found: list[str] = []
    for word, following in pairwise([*arguments, ""]):
        name, equals, value = word.partition("=")
        if name == option:
            found.append(value if equals else following)
    return found


def read_file(path: str) -> dict[str, Any]:
    """The settings of a file that the parser has accepted; `tuning.fit: ...` as nested ones."""
    text = Path(path).read_text(encoding="utf-8") if Path(path).is_file() else path
    settings: dict[str, Any] = {}
    for name, value in read_value(text, path).items():
        nested = reduce(lambda inner, key: {key: inner}, reversed(str(name).split(".")), value)
        settings = merge(settings, nested)
    return settings


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
    outcome = Runner(plan, config.folder, main, accepted(config)).run()
    print_results(load_study(config.folder))
    return print_outcome(outcome, config.folder)


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
    if (folder / "index.html").is_file() and all(
        state.state == DONE for name, state in found.states.items() if name == "report"
    ):
        print_line(f"the report: {folder / 'index.html'}")


def print_outcome(outcome: Outcome, folder: Path) -> int:
    """Say what did not work, and return the exit code."""
    if outcome.interrupted:
        sys.stderr.write("interrupted; the same command goes on from here\n")
        return INTERRUPTED
    for name in outcome.failed:
        sys.stderr.write(f"failed: {name}, see {folder / 'logs' / name}.log\n")
    if outcome.blocked:
        what = "what failed" if outcome.failed else "another process"
        sys.stderr.write(f"{len(outcome.blocked)} steps wait for {what}\n")
    return _FAILED if outcome.failed or outcome.blocked else 0


def accepted(config: StudyConfig) -> dict[str, int]:
    """Exit codes of kinds of steps that count as done, beside 0."""
    return dict.fromkeys(ADDING, _SLIDES_LOST) if config.lost_slides == "leave_out" else {}


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


def print_line(text: str) -> None:
    """A line of the answer of the command."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
