"""Depths beside random networks cut at the same depth."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.report.costs import costs_table
from histotransfer_pl.report.curves import against_depth
from histotransfer_pl.report.summary import summarise
from histotransfer_pl.runs.arms import group_arms, read_runs
from histotransfer_pl.runs.controls import control_of
from histotransfer_pl.runs.costs import colour_alone, depth_curves, read_costs
from histotransfer_pl.runs.results import ArmResult, evaluate_arms
from histotransfer_pl.runs.study import Network, load_study
from tests.runs.folders import write_study

NETWORKS = {
    "taught": Network("net", 96),
    "random0": Network("net", 96),
    "random1": Network("net", 96),
    "other": Network("another", 96),
    "colour": Network("colour"),
}
ORDER = {name: ["shallow", "middle", "deep"] for name in NETWORKS} | {"colour": ["channels"]}
NO_COSTS = pd.DataFrame(columns=["encoder", "depth"])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[ArmResult]:
    """Random networks are as good as the taught one at first, and much worse at last."""
    quality = {
        ("taught", "shallow"): 1.2, ("taught", "middle"): 1.2, ("taught", "deep"): 1.2,
        ("random0", "shallow"): 1.4, ("random0", "middle"): 0.2, ("random0", "deep"): 0.0,
        ("random1", "shallow"): 1.3, ("random1", "middle"): 0.1, ("random1", "deep"): 0.1,
        ("other", "shallow"): 1.0, ("other", "deep"): 1.0, ("colour", "channels"): 0.9,
    }  # fmt: skip
    folder = write_study(tmp_path_factory.mktemp("study") / "s", quality)
    arms = group_arms(read_runs(load_study(folder).runs)[0])[0]
    random = [
        replace(arm, key=arm.key._replace(weights_kind="random"))
        if "random" in arm.key.encoder
        else arm
        for arm in arms
    ]
    return evaluate_arms(random, n_resamples=300)


def find(results: list[ArmResult], encoder: str, depth: str) -> ArmResult:
    return next(r for r in results if (r.arm.key.encoder, r.arm.key.depth) == (encoder, depth))


def test_a_control_is_the_mean_of_the_random_networks_at_this_depth(
    results: list[ArmResult],
) -> None:
    control = control_of(find(results, "taught", "deep"), results, NETWORKS)

    assert control is not None
    assert control.networks == 2
    values = [
        interval.estimate
        for name in ("taught", "random0", "random1")
        if (interval := find(results, name, "deep").score) is not None
    ]
    assert control.gap.estimate == pytest.approx(values[0] - np.mean(values[1:]))
    assert control.better
    shallow = control_of(find(results, "taught", "shallow"), results, NETWORKS)
    assert shallow is not None
    assert not shallow.better


def test_only_what_is_not_random_and_has_random_twins_has_a_control(
    results: list[ArmResult],
) -> None:
    assert control_of(find(results, "random0", "deep"), results, NETWORKS) is None
    assert control_of(find(results, "other", "deep"), results, NETWORKS) is None
    assert control_of(find(results, "taught", "deep"), results, {}) is None


def test_a_depth_that_is_not_better_than_random_is_no_sweet_spot(results: list[ArmResult]) -> None:
    curves = depth_curves(results, ORDER, NO_COSTS, NETWORKS)
    alone = depth_curves(
        [r for r in results if r.arm.key.encoder == "taught"], ORDER, NO_COSTS, NETWORKS
    )

    taught = next(c for c in curves if c.results[0].arm.key.encoder == "taught")
    assert alone[0].sweet_place == 0  # without the control the shallowest would be called so
    assert taught.depths[taught.sweet_place or 0] == "middle"
    assert [c.random for c in curves] == [False, False, True, True]
    assert all(c.spot is None for c in curves if c.random)
    table = costs_table(curves, NO_COSTS, "t").page
    assert table.loc[table["Depth"] == "shallow", "Minus random"].iloc[0].endswith("not better")


def test_the_summary_and_the_figure_say_it(results: list[ArmResult]) -> None:
    curves = depth_curves(results, ORDER, NO_COSTS, NETWORKS)
    answers = {a.question: a.text for a in summarise(results, [], [], curves).answers}
    question = next(q for q in answers if "taught" in q and "better than random weights" in q)
    assert "Better at middle, deep; not shown to be better at shallow" in answers[question]
    assert "mean of 2 random networks" in answers[question]

    colour = colour_alone(results, NETWORKS)
    assert [r.arm.key.encoder for r in colour] == ["colour"]
    drawn = against_depth(curves, colour, "depth")
    assert drawn is not None
    assert "mean and deviation of the channels alone" in drawn.caption
    assert "random1" in drawn.alt
    bare = against_depth([c for c in curves if not c.random], [], "depth")
    assert bare is not None
    assert "channels" not in bare.caption


def test_each_network_is_counted_at_its_own_size() -> None:
    networks = {"a": Network("resnet18", 64), "b": Network("resnet18", 128), "c": Network("none")}
    table, _ = read_costs(None, {**networks, "again": networks["a"]})
    macs = table.groupby("encoder")["macs"].max()
    assert set(macs.index) == {"a", "b", "again"}
    assert macs["again"] == macs["a"] < macs["b"]
