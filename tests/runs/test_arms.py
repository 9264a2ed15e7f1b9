"""Runs become arms, arms become numbers, numbers become sentences."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from histotransfer_pl.analysis.compare import delong
from histotransfer_pl.errors import AnalysisError, ConfigError
from histotransfer_pl.report.summary import summarise
from histotransfer_pl.report.tables import contrasts_table, results_table
from histotransfer_pl.runs.arms import Arm, describe, group_arms, read_runs, tasks_of
from histotransfer_pl.runs.contrasts import planned_contrasts, ranking_contrasts
from histotransfer_pl.runs.results import (
    ArmResult,
    best_result,
    evaluate_arms,
    results_frame,
    results_text,
)
from histotransfer_pl.runs.run import ArmKey, Task, read_run
from histotransfer_pl.runs.study import Network, load_runs, load_study
from histotransfer_pl.runs.variant import Variant
from tests.runs.folders import predictions, write_run, write_study

ARMS = {("good", "last"): 2.0, ("bad", "last"): 0.2}


def arms_of(folder: Path) -> list[Arm]:
    runs, missing = read_runs(load_study(folder).runs)
    assert not missing
    return group_arms(runs)[0]


def test_an_arm_ranks_within_each_training_only(tmp_path: Path) -> None:
    arm = arms_of(write_study(tmp_path / "s", {("good", "last"): 1.0}, seeds=[0, 1]))[0]
    won = pairs = 0.0
    for run in arm.runs:
        y = run.table["label"].astype(int)
        n = y.sum() * (len(y) - y.sum())
        won += roc_auc_score(y, run.table["p_1"]) * n
        pairs += n
    result = evaluate_arms([arm], n_resamples=200)[0]
    assert result.score is not None
    assert result.score.estimate == pytest.approx(won / pairs)
    # A slide comes once for each seed; patients are counted once.
    assert (arm.n_slides(), arm.n_patients(), len(arm.cells)) == (60, 30, 6)
    assert result.score.n_patients == 30


def test_the_better_arm_wins_and_the_summary_says_so(tmp_path: Path) -> None:
    results = evaluate_arms(arms_of(write_study(tmp_path / "s", ARMS)), n_resamples=300)
    best = best_result(results)
    assert best is not None
    assert best.arm.key.encoder == "good"
    order = {"good": ["last"], "bad": ["last"]}
    planned, ranking = planned_contrasts(results, order, {}), ranking_contrasts(results, best.arm)
    assert [c.question for c in planned] == ["encoder"]
    assert planned[0].beyond_chance
    said = summarise(results, planned, ranking, [])
    assert said.headline == "good did best"
    assert "Yes: it beats the only other arm beyond chance" in said.answers[0].text
    assert "good better than bad" in said.answers[1].text


def test_equal_arms_are_within_chance(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {("a", "last"): 1.0, ("b", "last"): 1.0})
    results = evaluate_arms(arms_of(folder), n_resamples=200)
    best = best_result(results)
    assert best is not None
    ranking = ranking_contrasts(results, best.arm)
    assert not ranking[0].beyond_chance
    summary = summarise(results, [], ranking, [])
    assert summary.answers[0].text.startswith("No: the only other arm is not worse beyond chance")
    # The same predictions: there is no winner.
    assert summary.headline == "a and b did equally well"
    assert contrasts_table(ranking, "t", "", "").page["Verdict"].tolist() == ["equal"]


def test_estimates_that_look_equal_have_no_winner_and_an_arm_alone_no_verdict(
    tmp_path: Path,
) -> None:
    folder = write_study(tmp_path / "s", {("a", "last"): 1.0, ("b", "last"): 1.0})
    first, second = evaluate_arms(arms_of(folder), n_resamples=200)
    assert first.score is not None
    other = replace(first.score, low=first.score.low - 0.01)
    metrics = {**second.metrics, "auroc": replace(second.metrics["auroc"], interval=other)}
    found = summarise([first, replace(second, metrics=metrics)], [], [], [])
    assert found.headline == "a and b did equally well"
    assert summarise([first], [], [], []).headline == first.arm.label


def test_depths_are_held_against_the_deepest_and_nothing_else(tmp_path: Path) -> None:
    arms = {(e, d): 1.0 for e in ("a", "b") for d in ("d1", "d2", "d3")}
    results = evaluate_arms(arms_of(write_study(tmp_path / "s", arms)), n_resamples=100)
    order = {e: ["d1", "d2", "d3"] for e in ("a", "b")}
    pairs = {
        (c.question, "".join(c.first.key[:3:2]), "".join(c.second.key[:3:2]))
        for c in planned_contrasts(results, order, {})
    }
    assert pairs == {
        *(("encoder", f"a{d}", f"b{d}") for d in ("d1", "d2", "d3")),
        *(("depth", f"{e}{d}", f"{e}d3") for e in ("a", "b") for d in ("d1", "d2")),
    }


def test_random_networks_are_compared_only_with_their_own_network() -> None:
    def asked(kinds: dict[str, str]) -> list[tuple[str, str, str]]:
        keys = [ArmKey(e, k, d, "h", weights_kind=k) for e, k in kinds.items() for d in "ab"]
        results = [ArmResult(Arm(k, Task("c", "t", "slide"), {}), {}, complete=True) for k in keys]
        networks = {encoder: Network(encoder[0]) for encoder in kinds}
        found = planned_contrasts(results, {e: ["a", "b"] for e in kinds}, networks)
        return sorted((c.question, c.first.key.encoder, c.second.key.encoder) for c in found)

    trained = {"a": "pretrained", "a0": "random", "a1": "random"}
    own = [("depth", "a", "a"), *(("encoder", "a", r) for r in ("a0", "a0", "a1", "a1"))]
    assert asked(trained) == own
    # A second network without random weights of its own is held against those of the first ...
    alone = asked({**trained, "b": "pretrained"})
    assert alone.count(("encoder", "b", "a0")) == alone.count(("encoder", "a", "b")) == 2
    # ... and one that has them is not.
    both = asked({**trained, "b": "pretrained", "b0": "random"})
    assert both.count(("encoder", "b", "b0")) == both.count(("encoder", "a", "b")) == 2
    assert ("encoder", "b", "a0") not in both
    assert ("encoder", "a", "b0") not in both
    random = asked({"a0": "random", "a1": "random"})
    assert random == [("depth", "a0", "a0"), ("depth", "a1", "a1"), *[("encoder", "a0", "a1")] * 2]


def test_tuned_arms_are_held_against_frozen_and_against_their_controls() -> None:
    variants = ["frozen", "topk", "random", "bottom", "topk-joint"]
    keys = [ArmKey("e", "default", "d", "h", Variant.read(v)) for v in variants]
    arms = [Arm(key, Task("c", "t", "slide"), {}) for key in keys]
    results = [ArmResult(arm, {}, complete=True) for arm in arms]
    contrasts = planned_contrasts(results, {}, {})
    pairs = [(str(c.first.key.variant), str(c.second.key.variant)) for c in contrasts]
    assert set(pairs) == {
        *((v, "frozen") for v in variants[1:]),
        ("topk", "random"),
        ("topk", "bottom"),
    }
    assert describe(arms[2].key, ["variant"])["variant"] == "tuned on random patches"


def test_tables_say_a_variant_as_plans_do(tmp_path: Path) -> None:
    arms = {("a", "d1"): 1.0, ("a", "d2"): 0.5}
    first, second = evaluate_arms(arms_of(write_study(tmp_path / "s", arms)), n_resamples=100)
    key = first.arm.key._replace(variant=Variant.read("topk+lora-joint"))
    tuned = replace(first, arm=replace(first.arm, key=key))
    text = results_text([tuned, second])
    assert {"topk+lora-joint", "frozen"} <= set(text.split())
    assert set(results_frame([tuned, second])["variant"]) == {"topk+lora-joint", "frozen"}


def test_corrected_p_values_of_the_ranking_count_all_pairs(tmp_path: Path) -> None:
    arms = {(name, "last"): quality for name, quality in zip("abcd", (2, 1, 0.5, 0), strict=True)}
    results = evaluate_arms(arms_of(write_study(tmp_path / "s", arms)), n_resamples=100)
    best = best_result(results)
    assert best is not None
    pairs = [
        delong(a.arm.predictions(), b.arm.predictions()).p_value
        for a, b in combinations(results, 2)
    ]
    adjusted = dict(zip(pairs, multipletests(pairs, method="holm")[1], strict=True))
    ranking = ranking_contrasts(results, best.arm)
    assert len(ranking) == 3
    for contrast in ranking:
        assert contrast.comparison is not None
        p_value = contrast.comparison.p_value
        near = pairs[int(np.argmin([abs(p - p_value) for p in pairs]))]
        assert contrast.p_corrected == pytest.approx(adjusted[near])


def test_an_arm_with_fewer_folds_is_shown_but_never_best(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {("a", "x"): 0.5, ("b", "x"): 0.6, ("c", "x"): 3.0})
    runs, _ = read_runs([r for r in load_study(folder).runs if r.name != "c-x-f2-s0"])
    results = evaluate_arms(group_arms(runs)[0], n_resamples=100)
    assert [r.complete for r in results] == [True, True, False]
    best = best_result(results)
    assert best is not None
    assert best.arm.key.encoder != "c"
    assert "fewer folds" in results_table(results, "t").page.iloc[-1]["Remark"]
    against = {c.second.key.encoder: c for c in ranking_contrasts(results, best.arm)}
    assert against["c"].trainings == 2


def test_constant_predictions_and_too_few_patients_are_said(tmp_path: Path) -> None:
    table = predictions(0, 1.0).assign(p_0=0.5, p_1=0.5)
    constant = write_run(tmp_path / "constant", table)
    few = write_run(tmp_path / "few", predictions(0, 1.0).iloc[:6], depth="other")
    results = evaluate_arms(group_arms(read_runs(load_runs([constant, few]).runs)[0])[0])
    assert "predictions are constant" in results[0].problem
    assert "an interval needs at least" in results[1].problem
    assert best_result(results) is None
    frame = results_table(results, "t").frame
    # What can be said without an interval is still said.
    first = predictions(0, 1.0).iloc[:6]
    expected = roc_auc_score(first["label"].astype(int), first["p_1"])
    assert frame["auroc"].tolist() == pytest.approx([0.5, expected])
    assert frame["auroc_low"].isna().all()
    assert summarise(results, [], [], []).headline == "No arm can be ranked yet"


def test_runs_of_different_tasks_and_splits_are_not_compared(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", predictions(0, 1.0))
    other = write_run(tmp_path / "other", predictions(0, 1.0), cohort="other.csv")
    moved = write_run(tmp_path / "moved", predictions(0, 1.0), depth="d", split_seed=1)
    runs, _ = read_runs(load_runs([one, other, moved]).runs)
    groups = tasks_of(group_arms(runs)[0])
    assert [len(group) for group in groups] == [2, 1]
    results = evaluate_arms(groups[0], n_resamples=100)
    contrasts = ranking_contrasts(results, groups[0][0])
    assert contrasts[0].comparison is None
    assert "no fold and seed that both" in contrasts[0].problem


def test_other_slides_in_the_same_fold_are_an_error_in_words(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", predictions(0, 1.0))
    other = write_run(tmp_path / "other", predictions(1, 1.0), depth="d")
    results = evaluate_arms(group_arms(read_runs(load_runs([one, other]).runs)[0])[0])
    contrast = ranking_contrasts(results, results[0].arm)[0]
    assert "different slides" in contrast.problem


def test_a_run_that_is_there_twice_is_left_out_once(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, predictions(0, 1.0)) for name in ("a", "b")]
    arms, twice = group_arms(read_runs(load_runs(folders).runs)[0])
    assert len(arms) == 1
    assert "same arm, fold 0 and seed" in twice[0].reason


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test_predictions.csv", None, "run test in this folder"),
        ("test_predictions.csv", "", "damaged"),
        ("test_predictions.csv", "slide_id,label\na,1\n", "has the columns"),
        ("test_predictions.csv", "slide_id,patient_id,label,p_0,p_1\na,a,1,nan,1\n", "not finite"),
        (
            "test_predictions.csv",
            "slide_id,patient_id,label,p_0,p_1\na,a,2,.5,.5\n",
            "does not know",
        ),
        ("config.yaml", None, "nobody knows what ran"),
        ("config.yaml", "a: [", "line 2: did not find expected node content"),
        ("config.yaml", "data: 3", "does not say"),
    ],
)
def test_a_damaged_run_is_named(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    folder = write_run(tmp_path / "r", predictions(0, 1.0))
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(AnalysisError, match=message):
        read_run(load_runs([folder]).runs[0])


def test_bags_of_patients_are_named_after_them(tmp_path: Path) -> None:
    table = predictions(0, 1.0).drop_duplicates("patient_id").drop(columns="slide_id")
    run = read_run(load_runs([write_run(tmp_path / "r", table, bag="patient")]).runs[0])
    pd.testing.assert_series_equal(
        run.table["slide_id"], run.table["patient_id"], check_names=False
    )


def test_no_plan_and_no_runs_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no plan.json"):
        load_study(tmp_path)
    with pytest.raises(ConfigError, match="nothing to report"):
        load_runs([])
    with pytest.raises(ConfigError, match="given twice"):
        load_runs([tmp_path, tmp_path / "." / ""])
    (tmp_path / "plan.json").write_text('{"steps": [3]}')
    with pytest.raises(ConfigError, match="is no plan of a study"):
        load_study(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ConfigError, match="is no plan of a study"):
        load_study(tmp_path)


def test_a_study_that_moved_finds_its_own_runs(tmp_path: Path) -> None:
    old = write_study(tmp_path / "old", {("a", "x"): 1.0})
    new = tmp_path / "new"
    old.rename(new)
    assert {run.folder for run in load_study(new).runs} == set((new / "runs").iterdir())


def test_plain_runs_read_the_store_they_name_and_not_one_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("demo/s.zarr", "s.zarr"):
        Path(folder).mkdir(parents=True)
    run = write_run(tmp_path / "demo" / "run", predictions(0, 1.0))
    assert load_runs([run]).places.find("demo/s.zarr") == Path("demo/s.zarr")


def test_three_classes_are_compared_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folders = []
    for name, quality in (("a", 3.0), ("b", 0.0)):
        labels = np.arange(30) % 3
        logits = rng.normal(size=(30, 3)) + quality * np.eye(3)[labels]
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        table = pd.DataFrame(chances, columns=["p_x", "p_y", "p_z"])
        table.insert(0, "slide_id", [f"s{i}" for i in range(30)])
        table.insert(1, "patient_id", table["slide_id"])
        table.insert(2, "label", np.array(list("xyz"))[labels])
        table.insert(3, "predicted", np.array(list("xyz"))[chances.argmax(1)])
        folders.append(write_run(tmp_path / name, table, depth=name))
    results = evaluate_arms(group_arms(read_runs(load_runs(folders).runs)[0])[0], n_resamples=200)
    contrast = ranking_contrasts(results, results[0].arm)[0]
    assert contrast.beyond_chance
    assert contrast.comparison is not None
    assert contrast.comparison.difference.method == "paired by patient"
