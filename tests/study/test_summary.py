"""The table of results against a slow reference."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.errors import CohortError
from histotransfer_pl.study.plan import make_plan
from histotransfer_pl.study.steps import Plan, Step
from histotransfer_pl.study.summary import format_table, read_predictions, summarise, table_of
from tests.study.conftest import make_config


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Every test step has predictions: 24 patients of two slides, three folds."""
    made = make_plan(make_config(tmp_path))
    for step in made.of_kind("test"):
        write(step)
    return made


def write(step: Step, *, constant: bool = False, first_patient: int = 0) -> None:
    fold, seed = int(step.factors["fold"]), int(step.factors["seed"])
    head = len(str(step.factors["head"]))
    generator = np.random.default_rng([fold, seed, head, len(step.factors["encoder"])])
    rows = []
    for patient, slide in product(range(8), range(2)):
        label = patient % 2
        # The scale differs from fold to fold: pooled scores would rank folds, not slides.
        p = 0.5 if constant else 1 / (1 + np.exp(-(3 * fold + label + generator.normal())))
        name = f"{fold}_{first_patient + patient}"
        rows.append((f"{name}_{slide}", name, "test", "ab"[label], "a", 1 - p, p))
    columns = ["slide_id", "patient_id", "part", "label", "predicted", "p_a", "p_b"]
    path = table_of(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)


def slow_auroc(steps: list[Step]) -> float:
    """Share of right pairs, made within folds only."""
    won = pairs = 0.0
    for step in steps:
        table = pd.read_csv(table_of(step))
        positive = table.loc[table["label"] == "b", "p_b"]
        negative = table.loc[table["label"] == "a", "p_b"]
        for high, low in product(positive, negative):
            won += 1.0 if high > low else 0.5 if high == low else 0.0
            pairs += 1
    return won / pairs


def test_folds_are_pooled_and_seeds_averaged(plan: Plan) -> None:
    results = summarise(plan, [step.name for step in plan])
    assert len(results) == 3 * 2
    for _, row in results.iterrows():
        steps = [
            step
            for step in plan.of_kind("test")
            if all(str(step.factors[key]) == row[key] for key in ("encoder", "depth", "head"))
        ]
        seeds = [slow_auroc([s for s in steps if s.factors["seed"] == seed]) for seed in (0, 1)]
        assert row["auroc"] == pytest.approx(np.mean(seeds), abs=1e-12)
        assert row["sd_seeds"] == pytest.approx(np.std(seeds, ddof=1), abs=1e-12)
        assert row["low"] < row["auroc"] < row["high"]
        assert (row["n_patients"], row["n_slides"], row["n_seeds"]) == (24, 48, 2)
        assert row["note"] == ""
    text = format_table(results)
    assert "resnet18-random0" in text
    assert f"{results['auroc'][0]:.3f} [{results['low'][0]:.3f}" in text


def test_seeds_without_all_folds_do_not_count(plan: Plan) -> None:
    first = plan.of_kind("test")[0]
    results = summarise(plan, [step.name for step in plan if step.name != first.name])
    row = results.iloc[0]
    assert (row["n_seeds"], row["n_runs"], row["n_planned"]) == (1, 5, 6)
    assert row["note"] == "1 runs missing"
    other = [
        s for s in plan.of_kind("test") if {**s.factors, "fold": 0} == {**first.factors, "seed": 1}
    ]
    assert row["auroc"] == pytest.approx(slow_auroc(other), abs=1e-12)
    assert summarise(plan, [])["auroc"].isna().all()
    assert "6 runs missing" in format_table(summarise(plan, []))


def test_constant_predictions_are_named_and_the_rest_is_shown(plan: Plan) -> None:
    first = plan.of_kind("test")[0]
    for step in plan.of_kind("test"):
        if {**step.factors, "fold": 0, "seed": 0} == dict(first.factors):
            write(step, constant=True)
    results = summarise(plan, [step.name for step in plan])
    assert "constant" in results["note"][0]
    assert np.isnan(results["auroc"][0])
    assert results["auroc"][1:].notna().all()


def test_folds_that_share_a_patient_are_refused(plan: Plan) -> None:
    steps = [step for step in plan.of_kind("test") if step.factors["seed"] == 0][:2]
    table = pd.read_csv(table_of(steps[0]))
    table.assign(slide_id=table["slide_id"] + "x").to_csv(table_of(steps[1]), index=False)
    with pytest.raises(CohortError, match="are in several test folds"):
        read_predictions(steps)
