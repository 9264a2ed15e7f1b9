"""Study folders whose right answers are known, without any training."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from histotransfer_pl.runs.state import StepState, mark_done, mark_failed
from histotransfer_pl.runs.steps import read_plan

N_PATIENTS = 30


def predictions(fold: int, quality: float, seed: int = 0) -> pd.DataFrame:
    """Two slides of each of ten patients; the score is the label times quality, plus noise."""
    rng = np.random.default_rng([fold, seed, 7])
    rows = []
    for patient in range(fold, N_PATIENTS, 3):
        for slide in range(2):
            label = patient % 2
            chance = 1 / (1 + np.exp(-(quality * (2 * label - 1) + rng.normal())))
            rows.append(
                {
                    "slide_id": f"p{patient:02}_{slide}",
                    "patient_id": f"p{patient:02}",
                    "part": "test",
                    "label": str(label),
                    "predicted": str(int(chance > 0.5)),
                    "p_0": 1 - chance,
                    "p_1": chance,
                }
            )
    return pd.DataFrame(rows)


def write_run(folder: Path, table: pd.DataFrame, seed: int = 0, **data: Any) -> Path:
    """A run folder with a configuration and test predictions."""
    folder.mkdir(parents=True)
    settings = {
        "store": "s.zarr",
        "cohort": "c.csv",
        "encoder": "enc",
        "depth": "last",
        "target": "label",
        "fold": 0,
        "n_folds": 3,
        "split_seed": 0,
        "fold_column": None,
        "bag": "slide",
    }
    config = {
        "seed_everything": seed,
        "model": {"init_args": {"head": {"class_path": "m.AttentionHead", "init_args": {}}}},
        "data": {"class_path": "d.FeatureDataModule", "init_args": settings | data},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    table.to_csv(folder / "test_predictions.csv", index=False)
    return folder


def step(name: str, kind: str, run_dir: str | None, factors: Mapping[str, Any]) -> dict[str, Any]:
    """A step of a plan."""
    argv = [kind, *(["--run_dir", run_dir] if run_dir else [])]
    return {
        "name": name,
        "kind": kind,
        "argv": argv,
        "needs": [],
        "outputs": [],
        "factors": dict(factors),
    }


def write_study(
    folder: Path,
    arms: Mapping[tuple[str, str], float],
    folds: Iterable[int] = range(3),
    seeds: Sequence[int] = (0,),
    missing: Iterable[str] = (),
) -> Path:
    """A study of encoders and depths with the given quality; some steps may have failed."""
    steps = []
    failed: set[str] = set()
    for (encoder, depth), quality in arms.items():
        for fold in folds:
            for seed in seeds:
                name = f"{encoder}-{depth}-f{fold}-s{seed}"
                factors: dict[str, Any] = {"encoder": encoder, "depth": depth}
                factors |= {"weights": "default", "head": "attention", "variant": "frozen"}
                factors |= {"fold": fold, "seed": seed}
                run = folder / "runs" / name
                for kind in ("fit", "test"):
                    steps.append(step(f"{kind}-{name}", kind, str(run), factors))
                if name in missing:
                    failed.add(name)
                    continue
                table = predictions(fold, quality, seed)
                write_run(run, table, seed, encoder=encoder, depth=depth, fold=fold)
    folder.mkdir(exist_ok=True, parents=True)
    plan = {"name": "a <b>study</b>", "created": "2026-11-22", "steps": steps}
    (folder / "plan.json").write_text(json.dumps(plan))
    for planned in read_plan(folder / "plan.json"):
        if planned.run_folder.name not in failed:
            mark_done(folder, planned, 1.0)
        elif planned.kind == "fit":
            mark_failed(folder, planned, StepState("failed", 1.0, "disk <full>"))
    return folder
