"""The demonstrations of targets beyond two classes find what was painted, and nothing else."""

from pathlib import Path

import pandas as pd
import pytest

from histotransfer_pl.cli.main import main

CONFIGS = Path(__file__).parents[2] / "configs"
CASES = [
    ("demo_multilabel", "macro_auroc", "[control_atypical, control_crowded]", 0.8, 0.65),
    ("demo_regression", "r2", "control_score", 0.5, 0.2),
    ("demo_survival", "c_index", "[control_months, control_died]", 0.65, 0.62),
]


def score(metric: str, *words: str) -> float:
    assert main(["study", *words, "--name", "s"]) == 0
    return float(pd.read_csv("studies/s/report/tables/results.csv")[metric].max())


@pytest.mark.slow
@pytest.mark.parametrize(("config", "metric", "control", "least", "most"), CASES)
def test_what_was_painted_is_found_and_its_control_is_not(
    config: str,
    metric: str,
    control: str,
    least: float,
    most: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    found = []
    for more in ([], ["--target", control]):
        (tmp_path / str(len(more))).mkdir()
        monkeypatch.chdir(tmp_path / str(len(more)))
        found.append(score(metric, "--config", str(CONFIGS / f"{config}.yaml"), *more))
    assert found[0] > least
    assert found[1] < most


@pytest.mark.slow
def test_a_label_is_found_across_two_scanners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    assert score("auroc", "--config", str(CONFIGS / "demo_sites.yaml")) > 0.8
