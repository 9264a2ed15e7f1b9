"""A marker in `done/` says that a step is done, whatever one in `failed/` says."""

import json
from pathlib import Path

import pytest

from histotransfer_pl.runs.state import DONE, FAILED, mark_done
from histotransfer_pl.runs.steps import Step, read_plan
from histotransfer_pl.runs.study import load_study
from tests.runs.folders import write_study


@pytest.fixture
def failed(tmp_path: Path) -> Path:
    """A study in which a training failed."""
    return write_study(tmp_path / "s", {("enc", "d1"): 1.0}, missing=["enc-d1-f2-s0"])


def steps_of(folder: Path) -> list[Step]:
    """The steps of its plan."""
    return list(read_plan(folder / "plan.json"))


def test_a_marker_comes_before_an_earlier_failure(failed: Path) -> None:
    for step in steps_of(failed):
        mark_done(failed, step)
    study = load_study(failed)
    assert study.count(DONE) == len(study.steps)
    assert not any(state.error for state in study.states.values())
    assert not any(run.problem for run in study.runs)


def test_a_marker_of_another_command_says_nothing(failed: Path) -> None:
    for step in steps_of(failed):
        (failed / "done" / step.name).write_text("0" * 32 + "\n")
    assert load_study(failed).count(FAILED) == 1


def test_a_marker_without_the_outputs_says_nothing(failed: Path) -> None:
    steps = steps_of(failed)
    plan = json.loads((failed / "plan.json").read_text())
    for step in plan["steps"]:
        step["outputs"] = ["gone.txt"]
    (failed / "plan.json").write_text(json.dumps(plan))
    for step in steps:
        mark_done(failed, step)
    assert load_study(failed).count(FAILED) == 1
