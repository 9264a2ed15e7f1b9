"""Faults of earlier releases, each with the numbers that showed it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.records.encoder import EncoderSpec, FeatureSpec, WeightsRef
from histotransfer_pl.records.run import ClassSpec, RunRecord, SplitSpec, TargetSpec
from histotransfer_pl.records.tables import write_table
from histotransfer_pl.report.tables import external_table, results_table
from histotransfer_pl.runs.arms import Arm, encoder_label, group_arms, read_runs
from histotransfer_pl.runs.contrasts import planned_contrasts
from histotransfer_pl.runs.costs import networks_of, read_costs
from histotransfer_pl.runs.external import read_external
from histotransfer_pl.runs.results import evaluate_arms, results_text, sweet_spot
from histotransfer_pl.runs.run import read_run
from histotransfer_pl.runs.study import load_runs, load_study
from tests.runs.folders import predictions, write_run, write_study

DEPTHS = ("block3", "block6", "head")


def scored(aurocs: Sequence[float], patients: int = 40, noise_seed: int = 5) -> list[pd.DataFrame]:
    """A table per depth: scores share their noise, and separate the classes ever better."""
    rng = np.random.default_rng(noise_seed)
    labels = np.arange(patients) % 2
    noise, own = rng.normal(size=patients), rng.normal(size=(len(aurocs), patients))
    tables = []
    for place, value in enumerate(aurocs):
        shift = np.sqrt(2) * norm.ppf(min(value, 1 - 1e-9))
        p = 1 / (1 + np.exp(-(shift * labels + 0.9 * noise + 0.3 * own[place])))
        tables.append(
            pd.DataFrame(
                {
                    "slide_id": [f"s{i:03}" for i in range(patients)],
                    "patient_id": [f"p{i:03}" for i in range(patients)],
                    "part": "test",
                    "label": labels.astype(str),
                    "predicted": (p > 0.5).astype(int).astype(str),
                    "p_0": 1 - p,
                    "p_1": p,
                }
            )
        )
    return tables


def results_of(folder: Path, tables: Sequence[pd.DataFrame], seeds: int) -> list[Any]:
    runs = [
        write_run(folder / f"{depth}-{seed}", table, seed, depth=depth)
        for depth, table in zip(DEPTHS, tables, strict=True)
        for seed in range(seeds)
    ]
    return evaluate_arms(group_arms(read_runs(load_runs(runs).runs)[0])[0], n_resamples=100)


@pytest.mark.parametrize("seed", range(6))
def test_repeating_the_same_scores_moves_no_sweet_spot(tmp_path: Path, seed: int) -> None:
    tables = scored((0.8, 0.83, 0.86), noise_seed=seed)
    once = sweet_spot(results_of(tmp_path / "once", tables, 1))
    four = sweet_spot(results_of(tmp_path / "four", tables, 4))
    assert once is not None
    assert once == four


def slow_error(first: pd.DataFrame, second: pd.DataFrame) -> tuple[float, float]:
    """Difference of two AUROC and its standard error (DeLong 1988), one slide per patient."""
    y = (first["label"] == "1").to_numpy()
    placements = [
        (t["p_1"].to_numpy()[y][:, None] > t["p_1"].to_numpy()[~y]).astype(float)
        for t in (first, second)
    ]
    difference = placements[0] - placements[1]  # (positives, negatives)
    by_positive, by_negative = difference.mean(1), difference.mean(0)
    variance = by_positive.var(ddof=1) / y.sum() + by_negative.var(ddof=1) / (~y).sum()
    return float(difference.mean()), float(np.sqrt(variance))


@pytest.mark.parametrize("seed", range(8))
def test_one_split_has_an_error_and_it_is_the_paired_one_of_patients(
    tmp_path: Path, seed: int
) -> None:
    # one split and seed used to have no error, two alike seeds one of .0006
    tables = scored((0.78, 0.83, 0.88), 60, noise_seed=seed)
    found = sweet_spot(results_of(tmp_path, tables, 2))
    assert found is not None
    pairs = [slow_error(tables[found.best], table) for table in tables[: found.best]]
    good = [place for place, (difference, error) in enumerate(pairs) if difference <= error]
    assert found.place == [*good, found.best][0]


def test_the_ceiling_is_said(tmp_path: Path) -> None:
    perfect = scored((1.0, 1.0, 1.0), 60)
    # one pair of 900 in the wrong order: AUROC .9989, and no reason to cut deeper
    wrong = perfect[0].copy()
    rows = [
        wrong.loc[wrong["label"] == "0", "p_1"].idxmax(),
        wrong.loc[wrong["label"] == "1", "p_1"].idxmin(),
    ]
    wrong.loc[rows, ["p_0", "p_1"]] = wrong.loc[rows[::-1], ["p_0", "p_1"]].to_numpy()
    found = sweet_spot(results_of(tmp_path / "near", [wrong, *perfect[1:]], 1))
    assert found is not None
    assert found.place == 0
    assert "at the ceiling" in found.note
    alike = sweet_spot(results_of(tmp_path / "alike", [perfect[0]] * 3, 3))
    assert alike is not None
    assert (alike.place, alike.note[:22]) == (0, "all depths score alike")


def test_an_alias_with_random_in_it_is_no_random_network(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", {("uni-randomcrop", "x"): 1.0, ("plain", "x"): 1.0})
    plan = json.loads((folder / "plan.json").read_text())
    for step in plan["steps"]:
        if step["factors"]["encoder"] == "plain":
            step["factors"]["weights"] = "random"
    (folder / "plan.json").write_text(json.dumps(plan))
    arms = group_arms(read_runs(load_study(folder).runs)[0])[0]
    labels = {arm.key.encoder: encoder_label(arm.key) for arm in arms}
    assert labels == {"uni-randomcrop": "uni-randomcrop", "plain": "plain (random weights)"}
    (contrast,) = planned_contrasts(evaluate_arms(arms, n_resamples=50), {}, {})
    assert contrast.second.key.encoder == "plain"  # random weights are the reference


def blocks(folder: Path, depth: str = "d") -> list[Path]:
    """Leave-one-block-out: of six blocks three hold one class only."""
    folders = []
    for block in range(6):
        table = predictions(block % 3, 1.0).assign(part="test")
        table = table.assign(
            slide_id=table["slide_id"] + f"b{block}", patient_id=table["patient_id"] + f"b{block}"
        )
        if block > 2:
            table = table[table["label"] == str(block % 2)]
        run = write_run(
            folder / f"{depth}{block}", table, fold=block, fold_column="block", depth=depth
        )
        folders.append(run)
    return folders


def test_blocks_of_one_class_have_a_pooled_auroc(tmp_path: Path) -> None:
    runs, missing = read_runs(load_runs(blocks(tmp_path)).runs)
    assert not missing
    (result,) = evaluate_arms(group_arms(runs)[0], n_resamples=100)
    whole = pd.concat([run.table for run in runs])
    assert result.score is not None
    assert result.score.estimate == pytest.approx(
        roc_auc_score(whole["label"] == "1", whole["p_1"])
    )
    assert "AUROC pooled over folds" in result.caveat
    assert "pooled over folds" in results_table([result], "t").page["Remark"][0]
    assert "pooled over folds" in results_text([result])


def record(**features: Any) -> RunRecord:
    spec = EncoderSpec("resnet18", "resnet18", WeightsRef("pretrained"), **features)
    return RunRecord(
        FeatureSpec(spec, ("layer4",), 512, store_name="mine"),
        TargetSpec("label", ("1", "0"), "0"),  # the positive class comes last
        ClassSpec("m.AttentionHead"),
        split=SplitSpec(0, 3, 0),
    )


def write_record(folder: Path, known: RunRecord, identity: str = "a" * 64) -> None:
    content = {"version": 2, "id": identity, "record": known.to_json()}
    (folder / "run.json").write_text(json.dumps(content))


def test_the_record_says_what_a_run_is(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", predictions(0, 1.0))
    write_record(folder, record())
    (folder / "test_metrics.json").write_text(json.dumps({"run": "a" * 64}))
    run = read_run(load_runs([folder]).runs[0])
    assert run.source.id == "a" * 64
    assert run.arm[:3] == ("mine", "", "layer4")
    assert run.arm.weights_kind == "pretrained"
    assert run.classes == ("1", "0")
    write_record(folder, record(), identity="b" * 64)
    with pytest.raises(AnalysisError, match="of an earlier training in this folder"):
        read_run(load_runs([folder]).runs[0])
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**content, "version": 3}))
    with pytest.raises(AnalysisError, match=r"run.json cannot be read \(version 3, expected 2\)"):
        read_run(load_runs([folder]).runs[0])


def test_test_files_older_than_the_training_are_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", predictions(0, 1.0))
    write_record(folder, record())
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best.ckpt").write_bytes(b"x")
    os.utime(folder / "test_predictions.csv", (1, 1))
    with pytest.raises(AnalysisError, match="of an earlier training"):
        read_run(load_runs([folder]).runs[0])


def test_costs_are_counted_at_the_size_that_the_network_saw(tmp_path: Path) -> None:
    macs = {}
    for side in (112, 224):
        folder = write_run(tmp_path / str(side), predictions(0, 1.0))
        write_record(folder, record(input_px=side))
        (folder / "test_metrics.json").write_text(json.dumps({"run": "a" * 64}))
        study = load_runs([folder])
        arms = group_arms(read_runs(study.runs)[0])[0]
        table, note = read_costs(None, networks_of(study, arms, None))
        assert "counted" in note
        macs[side] = table.set_index("depth")["macs"]["layer1"]
    assert macs[224] == 4 * macs[112]


@pytest.mark.parametrize("names", [("None", "null"), ("NA", "x")])
def test_classes_called_none_or_null_are_compared(tmp_path: Path, names: tuple[str, str]) -> None:
    table = predictions(0, 1.0)
    renamed = table.rename(columns={f"p_{i}": f"p_{name}" for i, name in enumerate(names)})
    renamed = renamed.assign(label=[names[int(label)] for label in table["label"]])
    folder = write_run(tmp_path / "r", table)
    write_table(folder / "test_predictions.csv", renamed)
    (result,) = evaluate_arms(group_arms(read_runs(load_runs([folder]).runs)[0])[0], n_resamples=50)
    assert result.score is not None
    assert result.score.estimate == pytest.approx(
        roc_auc_score(table["label"] == "1", table["p_1"])
    )


def external_arm(tmp_path: Path) -> Arm:
    runs = []
    for fold, table in enumerate(scored((0.8, 0.8, 0.8), 30)):
        folder = write_run(tmp_path / str(fold), predictions(fold, 1.0), fold=fold)
        twice = pd.concat(
            [table, table.assign(slide_id=table["slide_id"] + "x", p_1=table["p_1"] ** 2)]
        )
        twice["p_0"] = 1 - twice["p_1"]
        (folder / "external").mkdir()
        twice.sample(frac=1, random_state=fold).to_csv(
            folder / "external" / "test_predictions.csv", index=False
        )
        runs.append(folder)
    return group_arms(read_runs(load_runs(runs).runs)[0])[0][0]


def test_folds_are_tested_alone_and_as_an_ensemble_on_another_cohort(tmp_path: Path) -> None:
    arm = external_arm(tmp_path)
    (found,) = read_external([arm], n_resamples=100)
    tables = [
        pd.read_csv(run.folder / "external" / "test_predictions.csv").sort_values("slide_id")
        for run in arm.runs
    ]
    y = tables[0]["label"]
    assert found.single == pytest.approx([roc_auc_score(y, t["p_1"]) for t in tables])
    mean = np.mean([t["p_1"] for t in tables], axis=0)
    assert found.slides is not None
    assert found.slides.estimate == pytest.approx(roc_auc_score(y, mean))
    assert (found.slides.n_slides, found.slides.n_patients) == (60, 30)
    of_patients = tables[0].assign(p=mean).groupby("patient_id").agg({"p": "mean", "label": "max"})
    assert found.patients is not None
    assert found.patients.estimate == pytest.approx(
        roc_auc_score(of_patients["label"], of_patients["p"])
    )
    table = external_table([found], "external")
    assert table is not None
    assert table.frame["trainings"].tolist() == [3]


def test_an_ensemble_of_other_slides_is_refused(tmp_path: Path) -> None:
    arm = external_arm(tmp_path)
    path = arm.runs[0].folder / "external" / "test_predictions.csv"
    pd.read_csv(path).iloc[1:].to_csv(path, index=False)
    (found,) = read_external([arm], n_resamples=100)
    assert found.slides is None
    assert "different slides" in found.problem
    path.write_text("")
    (found,) = read_external([arm], n_resamples=100)
    assert len(found.single) == 2
    assert "damaged" in found.problem
