"""A whole study, from slides to the report, in one process and in tasks of a queue."""

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from histotransfer_pl.cli.main import main

MEASURED = ["patches_per_s", "peak_mib", "seconds_per_epoch"]
"""Columns of what a machine took, which no two runs share."""
STUDY = {
    "name": "painted",
    "study_dir": "study",
    "prepare": [
        {
            "command": "paint --folder demo --patients 6 --size_px 560",
            "outputs": ["demo/cohort.csv"],
        }
    ],
    "cohort": "demo/cohort.csv",
    "grid": {"patch_px": 64, "mpp": 1.0},
    "encoders": [
        {"name": "resnet18", "weights": "random", "depths": ["stem", "layer1"]},
        {"name": "colour"},
    ],
    "heads": {"attention": {"class_path": "AttentionHead"}},
    "variants": ["frozen", "topk"],
    "tuning": {
        "encoders": ["resnet18-random0"],
        "head": "attention",
        "folds": [0],
        "k": 2,
        "fit": {"trainer": {"max_epochs": 1}},
    },
    "folds": {"n_folds": 3},
    "fit": {"trainer": {"max_epochs": 2}},
    "costs": True,
    "similarity": [
        {
            "first": "resnet18-random0",
            "second": "tuned",
            "options": {"data": {"n_patches": 16, "batch_size": 8}},
        }
    ],
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as a task gets: sums depend on it in their last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tables(folder: Path) -> dict[str, str]:
    """Each table of a study's report, without what was measured."""
    found = {path.name: path.read_text() for path in (folder / "tables").iterdir()}
    for name in [name for name in found if name.endswith(".csv")]:
        frame = pd.read_csv(StringIO(found[name]), dtype=str, keep_default_na=False)
        if not frame.columns.intersection(MEASURED).empty:
            found[name] = frame.drop(columns=MEASURED, errors="ignore").to_csv(index=False)
            found.pop(name.replace(".csv", ".tex"), None)
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_tasks_end_with_the_tables_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found = []
    for name, words in {"one": [], "tasks": ["--submit", "local", "--tasks", "2"]}.items():
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        Path("study.yaml").write_text(yaml.safe_dump(STUDY))
        assert main(["study", "--config", "study.yaml", *words]) == 0, capfd.readouterr().err
        assert (folder / "study" / "report" / "index.html").is_file()
        found.append(tables(folder / "study" / "report"))
    one, tasks = found
    assert {"arms.csv", "contrasts.csv", "results.csv", "tuning_cost.csv"} <= set(one)
    assert one == tasks
