"""What is done, and estimates of the time that is left."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.runs.state import mark_done
from histotransfer_pl.study.config import Pair, Probe, StudyConfig, Tuning
from histotransfer_pl.study.plan import make_plan
from histotransfer_pl.study.progress import duration, estimate, remaining_steps
from tests.study.conftest import make_config


def test_estimate_is_the_median_of_each_kind() -> None:
    left = {"fit": 2, "test": 1}
    found = estimate(left, {"fit": [1.0, 100.0, 4.0], "test": [2.0]})
    assert found.seconds == 4 + 4 + 2
    assert found.describe() == "about 10 s left"
    assert estimate(left, {"fit": [5.0]}).describe() == "more than 10 s left"
    assert estimate(left, {}).describe() == "time left unknown yet"


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (125, "2 min"), (3 * 3600 + 1200, "3 h 20 min")]
)
def test_durations_are_said_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


ENCODER = EncoderConfig("resnet18", depths=["layer1"])


def finished(folder: Path) -> StudyConfig:
    """A study of every kind of step, all of them done."""
    config = make_config(
        folder,
        encoders=[ENCODER],
        seeds=[0],
        variants=["frozen", "topk"],
        tuning=Tuning(head="mean"),
        costs=True,
        similarity=[Pair("resnet18", "random")],
        gain=[Probe("resnet18")],
    )
    plan = make_plan(config)
    for name in [name for step in plan for name in step.outputs]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for step in plan:
        mark_done(config.folder, step)
    return config


@pytest.mark.parametrize(
    "changed",
    [
        {"grid": GridSettings(patch_px=112)},
        {"slide_mpp": 0.3},
        {"encoders": [replace(ENCODER, weights="w.pt")]},
        {"encoders": [replace(ENCODER, input_px=112)]},
    ],
)
def test_other_features_renew_all_that_was_computed_from_them(
    tmp_path: Path, changed: Mapping[str, Any]
) -> None:
    config = finished(tmp_path)
    plan = make_plan(replace(config, **changed))
    done = {step.kind for step in plan} - {s.kind for s in remaining_steps(plan, config.folder)}
    assert done <= {"cost"}  # of random weights, as they are built


def test_one_more_depth_renews_nothing_that_was_computed_before(tmp_path: Path) -> None:
    config = finished(tmp_path)
    assert not remaining_steps(make_plan(config), config.folder)
    more = replace(ENCODER, depths=["layer1", "layer2"])
    tuning = replace(config.tuning, depth="layer1")
    plan = make_plan(replace(config, encoders=[more], tuning=tuning))
    left = {s.kind for s in remaining_steps(plan, config.folder) if "layer2" not in s.name}
    assert left == {"extract", "gain", "report"}
