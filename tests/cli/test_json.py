"""Every verb answers with one JSON object: what was done, files, metrics, failures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histotransfer_pl.cli.main import _VERBS, main
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import build_encoder
from tests.tuning import ENCODER, QUIET

KEYS = ["verb", "exit_code", "done", "files", "metrics", "failures", "error"]
DATA = ("--data.store", "s.zarr", "--data.cohort", "c.csv", "--data.n_folds", "3")
FIT = (*DATA, "--trainer.max_epochs", "1", *QUIET)
NETWORK = "timm:test_resnet"
PAIR = [
    word
    for number, side in enumerate(("first", "second"))
    for word in (
        *(f"--model.{side}.name", NETWORK, f"--model.{side}.weights", "random"),
        *(f"--model.{side}.depths", "[stem]", f"--model.{side}.seed", str(number)),
    )
]
STUDY = f"""
name: tiny
study_dir: study
cohort: c.csv
grid: {{patch_px: 32, mpp: 0.5, tissue: {{method: none}}}}
encoders: [{{name: "{NETWORK}", weights: random}}]
heads: {{mean: {{class_path: MeanPoolHead, init_args: {{hidden: []}}}}}}
folds: {{n_folds: 3}}
extract: {{data: {{qc: false}}}}
fit: {{trainer: {{max_epochs: 1, enable_progress_bar: false}}}}
"""
COMMANDS: dict[str, tuple[str, ...]] = {
    "init": (),
    "paint": ("--folder", "painted", "--patients", "2", "--size_px", "512"),
    "mosaic": ("--tiles", "tiles.csv", "--folder", "mosaic", "--groups_per_slide", "1"),
    "tile": ("--data.store", "t.zarr", "--data.cohort", "c.csv", "--data.grid.patch_px", "32"),
    "extract": ("--data.store", "s.zarr", "--data.cohort", "c.csv", "--data.qc", "false",
                "--data.grid.patch_px", "32", "--data.grid.tissue.method", "none", *ENCODER),
    "fit": ("--run_dir", "r", *FIT),
    "validate": ("--run_dir", "stage1", *QUIET),
    "test": ("--run_dir", "stage1", *QUIET),
    "predict": ("--run_dir", "stage1", *QUIET),
    "select": ("--run_dir", "stage1", "--top_k", "2"),
    "package": ("--run_dir", "stage1", "--out", "m.safetensors"),
    "apply": ("--model", "stage1", "--store", "s.zarr", "--pictures", "false"),
    "report": ("--runs", "stage1", "--resamples", "50"),
    "export": ("--store", "s.zarr", "--run_dir", "stage1", "--slide_ids", "s00"),
    "import": ("--store", "i.zarr", "--cohort", "i.csv", "--arrays", "bags.npz"),
    "doctor": ("--cohort", "c.csv", "--n_folds", "3", "--grid.tissue.method", "none",
               "--grid.patch_px", "32"),
    "verify": ("--store", "s.zarr"),
    "merge": ("--stores", "s.zarr", "--out", "m.zarr"),
    "encoders": (),
    "similarity": (*PAIR, "--data.store", "s.zarr", "--data.n_patches", "20",
                   "--data.batch_size", "10", "--model.flattened", "false"),
    "gain": ("--encoder.name", NETWORK, "--encoder.weights", "w.safetensors", "--encoder.depths",
             "[stem]", "--tiles", "tiles.csv", "--group", "group", "--probe.n_folds", "2",
             "--probe.n_inner_folds", "2", "--probe.penalties", "[1.0]"),
    "study": ("--config", "study.yaml"),
}  # fmt: skip


@pytest.fixture
def everything(tuning_cohort: Path) -> Path:
    """Slides, store and run of the tuning tests; labelled tiles, bags of arrays, a study."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(16):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(f"t{i}.png")
        rows.append((f"t{i}.png", f"g{i // 2}", "ab"[i // 2 % 2]))
    pd.DataFrame(rows, columns=["path", "group", "label"]).to_csv("tiles.csv", index=False)
    np.savez("bags.npz", X=rng.normal(size=(6, 3)), bag=[0, 0, 1, 1, 2, 2], y=[0, 1, 0])
    build_encoder(EncoderConfig(NETWORK, weights="random", seed=7)).save(Path("w.safetensors"), {})
    Path("study.yaml").write_text(STUDY)
    return tuning_cohort


def test_no_verb_is_forgotten() -> None:
    assert {*COMMANDS, "demo"} == {*_VERBS}  # demo is a row of the others


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_verb_answers_with_one_object(
    verb: str, everything: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main([verb, *COMMANDS[verb], "--json"])
    answer = json.loads(capfd.readouterr().out)
    assert code == 0, json.dumps(answer)
    assert list(answer) == KEYS
    assert answer["verb"] == verb
    assert answer["exit_code"] == 0
    assert answer["error"] == ""
    assert answer["failures"] == {}
    assert answer["done"]
    assert answer["files"] or answer["metrics"]
    assert all(Path(file).exists() for file in answer["files"])
    values = list(answer["metrics"].values())
    assert not any(value != value for value in values), "JSON has no NaN"
