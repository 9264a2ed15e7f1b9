"""Steps in groups: every step once, behind what it needs, side by side where nothing forbids it."""

from pathlib import Path
from typing import Any

import pytest

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.runs.steps import Plan
from histotransfer_pl.study.batches import Batch, make_batches, make_chains
from histotransfer_pl.study.config import Pair, Tuning
from histotransfer_pl.study.plan import make_plan
from histotransfer_pl.study.resources import Resources, resources_of
from tests.study.conftest import make_config

GPU: dict[str, Any] = {
    "extract": {"gpus": 1},
    "extract_tuned": {"gpus": 1},
    "finetune": {"gpus": 1},
}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(
        make_config(
            tmp_path,
            variants=["frozen", "topk"],
            tuning=Tuning(head="attention"),
            similarity=[Pair("resnet18", "tuned")],
            costs=True,
        )
    )


def order(plan: Plan, batches: list[Batch]) -> list[set[str]]:
    """The steps that have ended when each batch begins."""
    ended: list[set[str]] = []
    for batch in batches:
        ended.append(set().union(*(ended[n] | {*batches[n].steps} for n in batch.after)))
    return ended


@pytest.mark.parametrize("tasks", [1, 3, 50])
@pytest.mark.parametrize("settings", [{}, GPU])
def test_every_step_runs_once_behind_what_it_needs(
    plan: Plan, tasks: int, settings: dict[str, Any]
) -> None:
    batches = make_batches(plan, plan.steps, settings, tasks, {"fit": 2.5})
    assert sorted(name for b in batches for name in b.steps) == sorted(s.name for s in plan)
    for batch, ended in zip(batches, order(plan, batches), strict=True):
        for place, name in enumerate(batch.steps):
            assert {*plan[name].needs} <= ended | {*batch.steps[:place]}, name
            kind = plan[name].kind
            assert kind not in settings or resources_of(settings, kind) == batch.resources


def test_fits_are_shared_out_and_followed_by_their_own_test_in_the_same_process(plan: Plan) -> None:
    batches = make_batches(plan, plan.steps, {}, 4, {})
    where = {name: number for number, batch in enumerate(batches) for name in batch.steps}
    frozen = [s for s in plan.of_kind("fit") if s.factors["variant"] == "frozen"]
    assert len({where[step.name] for step in frozen}) == 4
    for step in plan.of_kind("test"):
        assert where[step.name] == where[step.needs[0]]
    sizes = [len(batches[where[step.name]].steps) for step in frozen]
    assert max(sizes) - min(sizes) <= 3  # one chain of fit, test and attention


def test_what_is_done_is_not_waited_for(plan: Plan) -> None:
    left = plan.of_kind("fit", "test", "report")
    batches = make_batches(plan, left, {}, 2, {})
    assert {name for batch in batches for name in batch.steps} == {step.name for step in left}
    assert batches[0].after == ()


def test_the_first_steps_of_a_chain_give_its_group_a_name(plan: Plan) -> None:
    chains = make_chains(plan, plan.steps, GPU)
    groups = {step.name: chains[step.name].group for step in plan}
    fit = next(s for s in plan.of_kind("fit") if s.factors["variant"] == "frozen")
    assert groups[fit.name] == "fit_1"
    assert groups["extract-resnet18"] == "extract_0"
    again = [s for s in plan.of_kind("fit") if s.factors["variant"] == "topk"]
    assert groups[again[0].name] != "fit_1"  # a group must not wait for itself


def test_settings_of_a_kind_stand_over_those_of_all() -> None:
    settings = {"all": {"mem_gb": 8, "partition": "cpu"}, "extract": {"partition": "gpu"}}
    assert resources_of(settings, "extract") == Resources(partition="gpu", mem_gb=8)
    assert resources_of(settings, "fit") == Resources(partition="cpu", mem_gb=8)
    assert resources_of({}, "fit") == Resources()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extracts": {}}, "names 'extracts', which is no kind of step: all, prepare"),
        ({"fit": 3}, r"resources.fit holds 3, expected settings such as \{gpus: 1\}"),
        ({"fit": {"gpu": 1}}, "resources.fit has no setting 'gpu': it knows minutes, partition"),
        ({"all": {"minutes": 0}}, "minutes is 0, expected 1 or more"),
        ({"all": {"mem_gb": "8G"}}, "mem_gb is '8G', expected"),
    ],
)
def test_resources_that_do_not_exist_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(tmp_path, resources=settings)
