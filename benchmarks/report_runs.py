"""The report of many runs: `python -m benchmarks.report_runs`."""

import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.material import ragged_lengths, write_bags
from benchmarks.program import run
from benchmarks.result import Result
from histotransfer_pl import fit, test
from histotransfer_pl.report.build import Settings, build_report
from histotransfer_pl.runs.record import CONFIG, RUN_FILE
from histotransfer_pl.runs.run import METRICS, PREDICTIONS
from histotransfer_pl.runs.study import load_runs

_FOLDS, _SEEDS = 5, 10


def measure(runs: int = 1000, slides: int = 360) -> list[Result]:
    """CPU seconds of the report of so many runs.

    Args:
        runs: Runs, of 5 folds and 10 seeds of each encoder.
        slides: Slides of the cohort, a fifth of which tests a run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = _copies(_trained(folder, slides), folder / "runs", runs)
        started = time.process_time()
        build_report(load_runs(made), folder / "report", Settings())
        taken = time.process_time() - started
    notes = f"{runs // (_FOLDS * _SEEDS)} encoders, {slides} slides, six metrics, 2,000 resamples"
    return [Result(f"report of {runs} runs", taken, 45.0, "CPU-s", notes=notes)]


def _trained(folder: Path, slides: int) -> Path:
    """One run that was really trained and tested."""
    write_bags(folder / "s.zarr", folder / "c.csv", ragged_lengths(slides, 5, 10), 16)
    data = {"store": folder / "s.zarr", "cohort": folder / "c.csv", "n_folds": _FOLDS}
    data |= {"encoder": "resnet18", "depth": "layer4"}
    fit(folder / "run", data=data, trainer={"max_epochs": 1, "enable_progress_bar": False})
    test(folder / "run", trainer={"enable_progress_bar": False})
    return folder / "run"


def _copies(source: Path, folder: Path, count: int) -> list[Path]:
    """The run as if of other encoders, folds and seeds, with scores of their own."""
    rng = np.random.default_rng(0)
    table = pd.read_csv(source / PREDICTIONS, dtype={"slide_id": str, "patient_id": str})
    copies = []
    for number in range(count):
        encoder, fold, seed = np.unravel_index(number, (count, _FOLDS, _SEEDS))
        copies.append(folder / f"{number:04d}")
        copies[-1].mkdir(parents=True)
        content = json.loads((source / RUN_FILE).read_text())
        content["record"]["features"]["store_name"] = f"encoder{encoder}"
        content["record"]["split"]["fold"] = int(fold)
        (copies[-1] / RUN_FILE).write_text(json.dumps(content))
        settings = (source / CONFIG).read_text()
        (copies[-1] / CONFIG).write_text(
            settings.replace("seed_everything: 0", f"seed_everything: {seed}")
        )
        shutil.copy(source / METRICS, copies[-1])
        chance = rng.beta(2 + table["label"], 3 - table["label"])  # (S,)
        own = table.assign(p_0=1 - chance, p_1=chance)
        own[["slide_id", "patient_id"]] += f"-{fold}"
        own.to_csv(copies[-1] / PREDICTIONS, index=False)
    return copies


if __name__ == "__main__":
    run("report_runs", measure, {"runs": 50, "slides": 60})
