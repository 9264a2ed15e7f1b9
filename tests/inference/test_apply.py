"""A packaged model says of new slides what `predict` said of them, without run, store or cohort."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
from safetensors import safe_open

from histotransfer_pl.cli.main import main
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.inference.apply import apply
from histotransfer_pl.inference.ensemble import find_models
from histotransfer_pl.runs.model_file import FORMAT, load_model
from histotransfer_pl.runs.state import mark_done
from histotransfer_pl.runs.steps import read_plan
from histotransfer_pl.store.feature_store import FeatureStore
from tests.store.s3 import BUCKET, serve_s3
from tests.tuning import TOPK, attention_array, tuning

AWS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@pytest.fixture
def away(tuning_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with slides and a model file, and nothing of the run, the store or the cohort."""
    assert main(["package", "--run_dir", "stage1", "--out", str(tmp_path / "m.safetensors")]) == 0
    folder = tmp_path / "away"
    shutil.copytree(tuning_cohort / "slides", folder / "slides")
    shutil.move(tmp_path / "m.safetensors", folder / "m.safetensors")
    monkeypatch.chdir(folder)
    return tuning_cohort


def test_apply_is_predict_without_the_run(away: Path) -> None:
    assert main(["apply", "--model", "[m.safetensors]", "--slides", "slides", "--out", "out"]) == 0
    found = pd.read_csv("out/predictions.csv")
    expected = pd.read_csv(away / "stage1" / "predictions.csv")
    assert found["slide_id"].tolist() == expected["slide_id"].tolist()
    for name in ("0", "1"):
        np.testing.assert_allclose(found[f"prob_{name}"], expected[f"p_{name}"], atol=1e-6, rtol=0)
    assert found["patches"].tolist() == [12] * 12
    assert Path("out/attention/s00.geojson").is_file()
    assert Path("out/attention/s00.png").is_file()
    page = Path("out/index.html").read_text()
    assert all(f"<th scope=row>s{i:02}</th>" in page for i in range(12))


def test_a_store_in_a_bucket_gives_what_the_folder_gives(
    away: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serve_s3() as endpoint:
        for name, value in AWS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("HISTOTRANSFER_CACHE", str(tmp_path / "cache"))
        there = f"s3://{BUCKET}/s.zarr"
        assert main(["merge", "--stores", str(away / "s.zarr"), "--out", there]) == 0
        for store, out in ((there, "far"), (str(away / "s.zarr"), "near")):
            call = ["apply", "--model", "[m.safetensors]", "--store", store, "--out", out]
            assert main([*call, "--pictures", "false"]) == 0
    far, near = (pd.read_csv(f"{out}/predictions.csv") for out in ("far", "near"))
    pd.testing.assert_frame_equal(far, near)
    assert not Path("s3:").exists()


def test_a_second_call_encodes_nothing_again(away: Path) -> None:
    call = ["apply", "--model", "[m.safetensors]", "--slides", "slides", "--pictures", "false"]
    assert main(call) == 0
    array = next(Path("applied/features.zarr/s00/features").rglob("c/0/0"))
    before, table = array.stat().st_mtime_ns, Path("applied/predictions.csv").read_bytes()
    assert main(call) == 0
    assert array.stat().st_mtime_ns == before
    assert Path("applied/predictions.csv").read_bytes() == table


def test_python_gives_what_the_run_attended_to(away: Path) -> None:
    store = FeatureStore.open(away / "s.zarr")
    slide = store.slide("s03")
    model = load_model("m.safetensors")
    result = model.predict(slide.read(f"features/{slide.features()[0][0]}/layer4"))
    stored = slide.read(attention_array(away / "stage1"))
    np.testing.assert_allclose(result.attention, stored[:, 0], atol=1e-6)
    assert model.classes == ("0", "1")
    assert load_model(away / "stage1").id == model.id


def test_a_bad_slide_is_reported_and_the_others_are_classified(
    away: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("slides/s05.tiff").write_bytes(b"no slide")
    call = ["apply", "--model", "[m.safetensors]", "--slides", "slides", "--pictures", "false"]
    assert main(call) == 3
    assert len(pd.read_csv("applied/predictions.csv")) == 11
    assert pd.read_csv("applied/failed.csv")["slide_id"].tolist() == ["s05"]
    assert "failed: s05: " in capsys.readouterr().out


def test_several_models_give_mean_spread_and_vote(away: Path) -> None:
    other = away / "other"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(away)
        assert tuning("fit", "--run_dir", "other", "--seed_everything", "5") == 0
    parts = [
        apply([m], store=away / "s.zarr", out=f"o{i}", pictures=False).predictions
        for i, m in enumerate((away / "stage1", other))
    ]
    both = apply([away / "stage1", other], store=away / "s.zarr", pictures=False).predictions
    chances = np.stack([part["prob_1"] for part in parts])
    np.testing.assert_allclose(both["prob_1"], chances.mean(0), atol=1e-12)
    np.testing.assert_allclose(both["sd_1"], chances.std(0, ddof=1), atol=1e-12)
    votes = ((chances > 0.5) == (chances.mean(0) > 0.5)).sum(0)
    assert both["votes"].tolist() == [f"{n} of 2" for n in votes]


def test_a_tuned_run_is_one_file_with_its_encoder(away: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(away)
        assert tuning("fit", *TOPK, "--run_dir", "tuned", epochs=1) == 0
        assert tuning("predict", *TOPK, "--run_dir", "tuned") == 0
    target = Path.cwd() / "tuned.safetensors"
    assert main(["package", "--run_dir", str(away / "tuned"), "--out", str(target)]) == 0
    found = apply([target], "slides", pictures=False).predictions
    expected = pd.read_csv(away / "tuned" / "predictions.csv")
    # Features are stored as float16 between encoder and head.
    np.testing.assert_allclose(found["prob_1"], expected["p_1"], atol=2e-3)


def test_patients_leave_the_house_as_hashes_only(away: Path) -> None:
    with safe_open("m.safetensors", framework="pt") as file:
        text = file.metadata()[FORMAT]
    assert '"p00"' not in text
    assert "p03" not in text
    model = load_model("m.safetensors")
    trained = load_model(away / "stage1").record.train_patients
    assert all(model.knows_patient(patient) for patient in trained)
    assert not model.knows_patient("somebody else")
    assert "# Model card" in model.facts["card"]
    assert f"patients trained on: {len(trained)}" in model.facts["card"]


def test_a_trained_patient_in_the_table_is_named(
    away: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patient = load_model(away / "stage1").record.train_patients[0]
    row = {"slide_id": "s00", "path": "slides/s00.tiff", "patient_id": patient}
    pd.DataFrame([row]).to_csv("t.csv", index=False)
    call = ["apply", "--model", "[m.safetensors]", "--slides", "t.csv", "--pictures", "false"]
    assert main(call) == 0
    assert f"were trained on ({patient!r})" in capsys.readouterr().err


def _change(change: Callable[[dict[str, Any]], None]) -> None:
    tensors = safetensors.torch.load_file("m.safetensors")
    with safe_open("m.safetensors", framework="pt") as file:
        content = json.loads(file.metadata()[FORMAT])
    del content["checksum"]  # as in files of the first release
    change(content)
    metadata = {FORMAT: json.dumps(content)}
    safetensors.torch.save_file(tensors, "m.safetensors", metadata=metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=9), "format 9, and this release reads 1"),
        (
            lambda c: c["record"]["head"].update(class_path="evil.Head"),
            "evil.Head, which is no class of histotransfer_pl",
        ),
        (
            lambda c: c["record"]["head"].update(
                class_path="histotransfer_pl.models.bag_head.BagHead",
                init_args={"module": "evil.Head"},
            ),
            "evil.Head, which is no class of histotransfer_pl",
        ),
        (lambda c: c.pop("record"), "damaged or cut short"),
        (lambda c: c["record"].update(later=1), "has no later"),
        (lambda c: c["calibration"].update(later=1), "Calibration has no later"),
    ],
)
def test_a_model_file_that_cannot_be_used_is_refused_in_one_line(
    away: Path, capsys: pytest.CaptureFixture[str], change: Any, message: str
) -> None:
    _change(change)
    assert main(["apply", "--model", "[m.safetensors]", "--slides", "slides"]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not Path("applied").exists()


def test_a_file_of_another_kind_or_cut_short_is_refused(away: Path) -> None:
    content = Path("m.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(content[: len(content) // 2])
    safetensors.torch.save_file({}, "other.safetensors")
    Path("text.safetensors").write_text("hello, world")
    flipped = bytearray(content)
    flipped[-9] ^= 64  # one bit of a weight, which still is a number
    Path("flipped.safetensors").write_bytes(flipped)
    for name, message in (
        ("cut", "damaged or cut short"),
        ("flipped", "its checksum differs"),
        ("other", "of another program"),
        ("text", "damaged"),
        ("absent", "no model at"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_model(f"{name}.safetensors")


def test_a_store_of_other_features_is_refused(
    away: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract = ["extract", "--data.slides", "slides", "--data.store", "o.zarr", "--data.qc", "false"]
    grid = ["--data.grid.patch_px", "32", "--data.grid.tissue.method", "none"]
    model = ["--model.encoder", "timm:test_resnet", "--model.weights", "random"]
    assert main([*extract, *grid, *model, "--model.seed", "3"]) == 0
    assert main(["apply", "--model", "[m.safetensors]", "--store", "o.zarr"]) == 1
    assert "weights.seed: 0, not 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["record"]["target"].update(classes=["a", "b"], positive="b"),
            "targets (p_a, p_b and p_0, p_1)",
        ),
        (lambda c: c["record"]["grid"].update(patch_px=64), "patch grids"),
        (lambda c: c["record"].update(bag="patient"), "bags (a patient and a slide)"),
    ],
)
def test_models_that_differ_are_no_ensemble(
    away: Path, capsys: pytest.CaptureFixture[str], change: Any, message: str
) -> None:
    shutil.copy("m.safetensors", "n.safetensors")
    _change(change)
    models = "[m.safetensors, n.safetensors]"
    assert main(["apply", "--model", models, "--slides", "slides"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.endswith(f"cannot be an ensemble: they have different {message}"), line
    assert not Path("applied").exists()


def test_a_slide_coarser_than_the_model_is_reported(away: Path) -> None:
    content = Path("slides/s00.tiff").read_bytes()
    Path("slides/s00.tiff").unlink()
    Path("slides/coarse.tiff").write_bytes(content)
    rows = [
        {"slide_id": "coarse", "path": "slides/coarse.tiff", "mpp": 2.0},
        {"slide_id": "s01", "path": "slides/s01.tiff", "mpp": ""},
    ]
    pd.DataFrame(rows).to_csv("t.csv", index=False)
    done = apply(["m.safetensors"], "t.csv", pictures=False)
    assert done.predictions["slide_id"].tolist() == ["s01"]
    assert "enlarge" in done.failed["coarse"]


def test_the_folds_of_an_arm_are_an_ensemble(away: Path) -> None:
    study = away / "studies" / "x"
    runs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(away)
        for fold in (0, 1):
            name = f"studies/x/runs/f{fold}"
            assert tuning("fit", "--run_dir", name, "--data.fold", str(fold), epochs=1) == 0
            runs.append(away / name)
    arm = {"encoder": "e", "depth": "layer4"}
    names = {"layer4": "f", "stem": "other"}
    steps = [
        {
            "name": f"test-{depth}-f{fold}",
            "kind": "test",
            "argv": ["test", "--run_dir", f"studies/x/runs/{names[depth]}{fold}"],
            "factors": {**arm, "depth": depth, "fold": fold, "seed": 0},
            **{key: [] for key in ("needs", "inputs", "outputs")},
        }
        for depth in names
        for fold in (0, 1)
    ]
    plan = {"name": "x", "created": "", "working_folder": str(away), "steps": steps}
    (study / "plan.json").write_text(json.dumps(plan))
    for step in read_plan(study / "plan.json"):
        mark_done(study, step)
    assert find_models([study], ["depth=layer4"]) == runs
    with pytest.raises(ConfigError, match=r"2 arms of .* say which .* depth=stem"):
        find_models([study])
    found = apply(find_models([study], ["depth=layer4"]), store=away / "s.zarr", pictures=False)
    assert set(found.predictions["votes"]) <= {"1 of 2", "2 of 2"}


def test_other_settings_in_the_same_folder_are_refused_in_one_line(
    away: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["apply", "--model", "[m.safetensors]", "--slides", "slides", "--pictures", "false"]
    assert main(call) == 0
    before = Path("applied/predictions.csv").read_bytes()
    capsys.readouterr()
    assert main([*call, "--trainer", "{precision: bf16-mixed}"]) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "applied holds what other models or settings made, so give another out" in line
    assert "precision: the store has '32-true', asked for 'bf16-mixed'" in line
    assert Path("applied/predictions.csv").read_bytes() == before


@pytest.fixture
def of_patients(tuning_cohort: Path) -> Path:
    """A model whose bags are the two slides of a patient, in its cohort's folder."""
    table = pd.read_csv("c.csv")
    table["patient_id"] = [f"p{i // 4}{i % 2}" for i in range(len(table))]
    table.to_csv("c.csv", index=False)
    bags = ("--run_dir", "patients", "--data.bag", "patient")
    assert tuning("fit", *bags, epochs=1) == 0
    assert tuning("predict", *bags, epochs=1) == 0
    return tuning_cohort


def test_bags_that_are_patients_are_those_of_the_table(of_patients: Path) -> None:
    unlabelled = pd.read_csv("c.csv").drop(columns="label")
    unlabelled.to_csv("t.csv", index=False)
    expected = pd.read_csv("patients/predictions.csv")
    for options in ({}, {"store": "s.zarr", "pictures": False}):
        found = apply(["patients"], "t.csv", **options).predictions  # type: ignore[arg-type]
        assert found["patient_id"].tolist() == expected["patient_id"].tolist()
        assert found["slides"].tolist() == [2] * 6
        assert found["patches"].tolist() == [24] * 6
        np.testing.assert_allclose(found["prob_1"], expected["p_1"], atol=1e-6, rtol=0)
    page = Path("applied/index.html").read_text()
    assert page.count("<img") == 12
    first = next(line for line in page.splitlines() if "<th scope=row>p00</th>" in line)
    assert "attention/s00.png" in first
    assert "attention/s02.png" in first
    assert "attention/s01.png" not in first


@pytest.mark.parametrize("given", [{"slides": "slides"}, {"store": "s.zarr"}])
def test_bags_that_are_patients_need_a_table(of_patients: Path, given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="takes all slides of a patient as one bag: give a CSV"):
        apply(["patients"], **given)  # type: ignore[arg-type]
    assert not Path("applied").exists()
