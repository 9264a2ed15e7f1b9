"""Plain run folders: what was trained otherwise is never pooled, what is dropped is said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from histotransfer_pl.records.run import SelectionSpec
from histotransfer_pl.report.build import Settings, make_page
from histotransfer_pl.report.page import render
from histotransfer_pl.runs import record
from histotransfer_pl.runs.arms import Arm, group_arms, read_runs
from histotransfer_pl.runs.study import load_runs
from tests.runs.folders import predictions, write_run

QUICK = Settings(n_slides=0, resamples=100)


def changed(folder: Path, **model: Any) -> Path:
    """Add to the settings of the model of a run."""
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"] |= model
    path.write_text(yaml.safe_dump(config | {"run_dir": str(folder)}))
    return folder


def tuned(folder: Path, seed: int, stage1: Path) -> Path:
    """A run whose encoder was trained too, on a selection whose name says nothing."""
    write_run(folder, predictions(0, 2.0, seed), seed, selection=f"{folder.name}-random-2")
    selection = SelectionSpec(f"{folder.name}-random-2", "attention", 8)
    record.write_run(folder, "id", replace(record.load_run(folder).record, selection=selection))
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["class_path"] = "histotransfer_pl.tasks.finetune.TopKFineTuner"
    config["model"]["init_args"]["stage1"] = str(stage1)
    path.write_text(yaml.safe_dump(config))
    return folder


def arms_of(folders: list[Path]) -> list[Arm]:
    runs, missing = read_runs(load_runs(folders).runs)
    assert not missing
    return group_arms(runs)[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_tuned_run_is_an_arm_of_its_own(tmp_path: Path, seed: int) -> None:
    frozen = write_run(tmp_path / "frozen", predictions(0, 1.0))
    joint = tuned(tmp_path / "joint", seed, frozen)
    arms = arms_of([frozen, joint])
    assert [len(arm.runs) for arm in arms] == [1, 1]
    assert [arm.label for arm in arms] == ["enc · frozen", "enc · tuned on attention-8"]
    page = make_page(load_runs([frozen, joint]), QUICK)
    assert page.notice == ""
    assert "after “tuned on” stand the rule and the number of patches" in " ".join(page.story)


def test_the_page_says_what_tuning_took(tmp_path: Path) -> None:
    frozen = write_run(tmp_path / "frozen", predictions(0, 1.0))
    joint = tuned(tmp_path / "joint", 0, frozen)
    took: dict[str, Any] = {
        "trained_parameters": 12_000,
        "parameters": 3_000_000,
        "peak_mib": 1234.5,
    }
    took |= {"seconds_per_epoch": 61.5, "device": "cpu"}
    (joint / "tuning_cost.json").write_text(json.dumps(took))
    page = make_page(load_runs([frozen, joint]), QUICK)
    table = page.tasks[0].tuning
    assert table is not None
    assert table.frame["trained_share"].tolist() == [0.004]
    (row,) = table.rows
    assert row[2:] == ["12,000 (0.4 %)", "1,234 MiB", "61.5", "cpu"]
    assert "Cost of tuning" in render(page)
    (joint / "tuning_cost.json").write_text("{")
    assert make_page(load_runs([frozen, joint]), QUICK).tasks[0].tuning is None


def test_tuned_runs_of_several_folds_are_one_arm(tmp_path: Path) -> None:
    first = [write_run(tmp_path / f"s{i}", predictions(i, 1.0), fold=i) for i in range(2)]
    joint = [
        tuned(tmp_path / "j0", 0, first[0]),
        tuned(tmp_path / "j1", 1, first[1] / "checkpoints" / "best.ckpt"),
    ]
    assert [len(arm.runs) for arm in arms_of([*first, *joint])] == [2, 2]
    # A stage 1 that was trained otherwise is another training.
    changed(first[1], beta=0.5)
    assert [len(arm.runs) for arm in arms_of(joint)] == [1, 1]


def test_runs_with_other_settings_are_not_pooled(tmp_path: Path) -> None:
    names = [f"{name}{fold}" for name in "ab" for fold in range(2)]
    folders = [
        changed(
            write_run(tmp_path / name, predictions(i % 2, 1.0), i, fold=i % 2),
            beta=0.5 if name[0] == "b" else 0.0,
            lr_scheduler=None,
        )
        for i, name in enumerate(names)
    ]
    arms = arms_of(folders)
    assert [[run.folder.name for run in arm.runs] for arm in arms] == [["a0", "a1"], ["b0", "b1"]]
    assert [arm.label for arm in arms] == [f"enc · settings of {folders[i]}" for i in (0, 2)]
    page = make_page(load_runs(folders), QUICK)
    assert "not trained alike (model.beta differ)" in page.problems[0]
    assert page.tasks[0].results.frame["settings"].nunique() == 2


def test_folds_seeds_places_and_speed_do_not_keep_runs_apart(tmp_path: Path) -> None:
    folders = [
        changed(
            write_run(
                tmp_path / str(i), predictions(i, 1.0), i, fold=i, num_workers=i, cache_gb=1.0 + i
            )
        )
        for i in range(3)
    ]
    arms = arms_of(folders)
    assert [len(arm.runs) for arm in arms] == [3]
    assert arms[0].label == "enc"
    assert "settings" not in make_page(load_runs(folders), QUICK).tasks[0].results.frame


def test_a_dropped_run_is_said_at_the_top(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, predictions(0, 1.0)) for name in ("a", "b")]
    page = make_page(load_runs(folders), QUICK)
    assert page.notice.startswith("1 run is left out, because another of the same arm, fold")
    assert str(folders[1]) in page.notice
    assert ("Trainings", "1 of 2") in page.badges


def test_the_page_says_how_often_was_resampled(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", predictions(0, 1.0))
    for resamples, said in ((100, "100 times"), (1200, "1,200 times")):
        settings = Settings(n_slides=0, resamples=resamples)
        text = render(make_page(load_runs([folder]), settings))
        assert f"({said}, bias-corrected" in text
        assert "2,000" not in text
