"""The study of foundation models, run to its end on structural twins and painted slides."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from histotransfer_pl.cli.main import main
from histotransfer_pl.slides.synthetic import write_pyramid
from tests.encoders.twins import PUBLISHED, TINY, TWINS, twin
from tests.tuning import paint

CONFIG = Path(__file__).parents[2] / "configs" / "foundation_models.yaml"
PATCHES = {"phikon_v2": 16, "dinov3_vitl16": 16}


def slides(folder: Path) -> None:
    (folder / "slides").mkdir()
    rows = []
    for i in range(9):
        write_pyramid(folder / "slides" / f"s{i}.tiff", paint(i, i % 2 == 1), 0.5)
        rows.append((f"s{i}", f"p{i}", i % 2))
    table = pd.DataFrame(rows, columns=["slide_id", "patient_id", "label"])
    table.to_csv(folder / "cohort.csv", index=False)


def tiny(encoder: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An encoder of the file with a twin's width and weights."""
    name = encoder["name"]
    side = 4 * PATCHES.get(name, 14)
    found: dict[str, Any] = {"name": name, "input_px": side, "depths": ["block0", "norm"]}
    found["model_args"] = TINY | {"img_size": side}
    if name in TWINS:
        state, _ = twin(name, torch.zeros(1, 3, side, side), folder)
        torch.save(state, folder / f"{name}.pth")
        return found | {"weights": str(folder / f"{name}.pth")}
    return found | {"weights": "random"}


@pytest.mark.slow
def test_the_whole_study_runs_on_twins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    slides(tmp_path)
    said = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    said["encoders"] = [tiny(encoder, tmp_path) for encoder in said["encoders"]]
    assert len(said["encoders"]) == 7
    assert {"uni2_h", "virchow2", "h_optimus_0", "phikon_v2", "midnight_12k"} <= {
        encoder["name"] for encoder in said["encoders"]
    } & {*TWINS, *PUBLISHED}
    said["grid"] = {"patch_px": 32, "mpp": 0.5, "tissue": {"method": "none"}}
    said["folds"] = {"n_folds": 3, "run": [0]}
    said["tuning"] |= {"folds": [0], "k": 3, "encoders": ["uni2_h", "virchow2"]}
    said["tuning"]["fit"]["trainer"] = {"max_epochs": 1}
    said["extract"] = {"data": {"qc": False}}
    said["fit"]["trainer"] = {"max_epochs": 2}
    for pair in said["similarity"]:
        pair["second"] = pair["second"].replace("dinov2_vitl14", "phikon_v2")
        pair["options"] = {"data": {"n_patches": 36, "batch_size": 12}}
    probe = {"n_folds": 2, "n_inner_folds": 2, "penalties": [1.0]}
    said["gain"] = [{"encoder": "uni2_h", "options": {"probe": probe}}]
    Path("study.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")

    assert main(["study", "--config", "study.yaml"]) == 0

    folder = Path("studies/foundation_models")
    tuned = [load_file(file) for file in (folder / "runs").glob("*/encoder.safetensors")]
    assert len(tuned) == 2
    assert all("lora_" in key for state in tuned for key in state)
    cka = pd.read_csv(folder / "similarity" / "uni2_h-tuned_lora.csv", index_col=0)
    assert np.isfinite(cka.to_numpy()).all()
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "adapters" in page
