"""A plan of many runs made, shown and resumed: `python -m benchmarks.study_plan`."""

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.program import run
from benchmarks.result import Result
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.records.files import write_text
from histotransfer_pl.runs.state import marker
from histotransfer_pl.runs.steps import PLAN, Plan, read_plan
from histotransfer_pl.study.batches import make_batches
from histotransfer_pl.study.config import Folds, StudyConfig
from histotransfer_pl.study.plan import make_plan
from histotransfer_pl.study.progress import remaining_steps
from histotransfer_pl.study.runner import Runner
from histotransfer_pl.study.snakefile import snakefile
from histotransfer_pl.study.status import describe_plan, describe_status


def measure(runs: int = 2000) -> list[Result]:
    """CPU seconds for a plan of so many runs, and the memory that they take.

    Args:
        runs: Fits; each has a test and an attention beside it.
    """
    with tempfile.TemporaryDirectory() as name:
        config = _config(Path(name), runs // 20)
        before = _peak_mb()
        plans: list[Plan] = []
        made = cpu_seconds(lambda: plans.append(make_plan(config)))
        plan = plans[0]
        path = config.folder / PLAN
        written = cpu_seconds(lambda: write_text(path, plan.to_json()))
        written += cpu_seconds(lambda: read_plan(path))
        shown = cpu_seconds(lambda: describe_plan(plan, config.folder))
        shared = cpu_seconds(lambda: make_batches(plan, plan.steps, {}, 100, {}))
        exported = cpu_seconds(lambda: snakefile(plan, config.folder, {}))
        _finish(plan, config.folder, len(plan) - 1)
        resumed = cpu_seconds(lambda: remaining_steps(plan, config.folder))
        status = cpu_seconds(lambda: describe_status(plan, config.folder))
        outcome = Runner(plan, config.folder, lambda argv: 1).run()
        if outcome.failed != [plan.steps[-1].name]:
            raise RuntimeError("the step that was left has not run alone")
        notes = (
            f"{len(plan)} steps: made {made:.2f} s, written and read {written:.2f}, "
            f"shown {shown:.2f}, shared out to tasks {shared:.2f}, Snakefile {exported:.2f}, "
            f"what is left found {resumed:.2f}, --status {status:.2f}"
        )
        total = made + written + shown + resumed
        return [
            Result(
                f"plan of {runs} runs made, written, shown and resumed", total, 5.0, "CPU-s",
                notes=notes,
            ),
            Result(f"memory that a plan of {runs} runs adds", _peak_mb() - before, 200.0, "MB"),
        ]  # fmt: skip


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one call: the same on a busy machine."""
    start = time.process_time()
    work()
    return time.process_time() - start


def _config(folder: Path, seeds: int) -> StudyConfig:
    """Two encoders at one depth, two heads, five folds."""
    return StudyConfig(
        name="many",
        study_dir=folder / "study",
        cohort=folder / "cohort.csv",
        encoders=[EncoderConfig("resnet18"), EncoderConfig("resnet18", weights="random")],
        heads={
            "attention": {"class_path": "AttentionHead"},
            "mean": {"class_path": "MeanPoolHead", "init_args": {"hidden": []}},
        },
        folds=Folds(n_folds=5),
        seeds=list(range(seeds)),
    )


def _finish(plan: Plan, folder: Path, steps: int) -> None:
    """As if the first steps were done."""
    (folder / "done").mkdir(parents=True)
    for step in plan.steps[:steps]:
        for output in map(Path, step.outputs):
            output.parent.mkdir(parents=True, exist_ok=True)
            output.touch()
        marker(folder, step).write_text(f"{step.digest}\n1.00\n")  # what mark_done also syncs


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    run("study_plan", measure, {"runs": 40})
