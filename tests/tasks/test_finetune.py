"""Fine-tuning through the command line: the round trip, resuming, and what is refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from histotransfer_pl.cli.main import main
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.errors import SlideError
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path
from histotransfer_pl.tasks.finetune import TopKFineTuner
from tests.payload import Payload
from tests.tuning import ENCODER, TOPK, attention_array, tuning


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    file = run / "checkpoints" / f"{name}.ckpt"
    state: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["state_dict"]
    return state


def test_round_trip_to_features_of_the_tuned_encoder(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = ["--model.encoder_lr", "1e-3"]
    assert tuning("fit", *TOPK, "--run_dir", "tuned", *fast) == 0
    assert tuning("test", *TOPK, "--run_dir", "tuned") == 0
    assert tuning("predict", *TOPK, "--run_dir", "tuned") == 0
    store = FeatureStore.open("s.zarr")
    for slide_id in store.slide_ids():
        slide = store.slide(slide_id)
        weight = slide.read(attention_array(Path("tuned")))[:, 0]
        assert len(weight) == slide.n_patches  # all patches, not the selected ones
        assert weight.sum() == pytest.approx(1, abs=1e-5)

    data = ["--data.store", "s.zarr", "--data.cohort", "c.csv", "--data.qc", "false"]
    grid = ["--data.grid.patch_px", "32", "--data.grid.tissue.method", "none"]
    encoder = ["--model.encoder", "timm:test_resnet", "--model.alias", "tuned0"]
    file = ["--model.weights", "tuned/encoder.safetensors"]
    assert main(["extract", *data, *grid, *encoder, *file]) == 0
    facts = store.slide("s00").info(feature_path("tuned0", "layer4")).attributes
    table = pd.read_csv("tuned/predictions.csv")
    trained = table.loc[table["part"] == "train", "patient_id"]
    assert facts["tuned_on_patients"] == sorted(trained)
    assert facts["tuned_selection"] == "top3"

    features = ["--data.encoder", "tuned0", "--run_dir", "again"]
    assert tuning("fit", *features) == 0
    assert tuning("test", *features) == 0
    assert 0 <= json.loads(Path("again/test_metrics.json").read_text())["auroc"] <= 1
    capsys.readouterr()
    assert tuning("fit", *features, "--data.fold", "1") == 1
    assert "comes from an encoder tuned on" in capsys.readouterr().err


def test_before_any_step_it_says_what_stage_1_said(tuning_cohort: Path) -> None:
    stage1 = ["--run_dir", "scaled", "--data.standardize", "true"]
    for verb in ("fit", "test", "predict"):
        assert tuning(verb, *stage1, epochs=6) == 0
    assert main(["select", "--run_dir", "scaled", "--top_k", "3", "--name", "scaled3"]) == 0
    own = ["--model.stage1", "scaled", "--data.selection", "scaled3", "--run_dir", "still"]
    still = ["--model.encoder_lr", "0", "--model.head_lr", "0", "--model.weight_decay", "0"]
    for verb in ("fit", "test"):
        assert tuning(verb, *TOPK, *own, *still, epochs=1) == 0
    before, after = (pd.read_csv(f"{run}/test_predictions.csv") for run in ("scaled", "still"))
    assert before["p_1"].std() > 0.01
    # Stored features are rounded to float16, those of the encoder are not.
    np.testing.assert_allclose(after["p_1"], before["p_1"], atol=2e-3)


@pytest.mark.parametrize("resting", ["encoder", "head"])
def test_encoder_and_head_have_learning_rates_of_their_own(
    tuning_cohort: Path, resting: str
) -> None:
    moving = {"encoder": "head", "head": "encoder"}[resting]
    rates = [f"--model.{resting}_lr", "0", f"--model.{moving}_lr", "1e-3"]
    assert tuning("fit", *TOPK, "--run_dir", "a", *rates, "--model.weight_decay", "0") == 0
    encoder = build_encoder(EncoderConfig("timm:test_resnet", weights="random"))
    before = {f"encoder.{name}": value.data for name, value in encoder.named_parameters()}
    stage1 = weights(Path("stage1"), "best")
    before |= {name: value for name, value in stage1.items() if name.startswith("head.")}
    after = weights(Path("a"))
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved
    assert {name.split(".")[0] for name in moved} == {moving}


def test_test_metrics_count_every_slide_once_on_all_its_patches(tuning_cohort: Path) -> None:
    assert tuning("fit", *TOPK, "--run_dir", "a", "--data.eval_patches", "5") == 0
    found = []
    for size in ("5", "100"):  # batches that cut bags, and one that holds them all
        assert tuning("test", *TOPK, "--run_dir", "a", "--data.eval_patches", size) == 0
        found.append(pd.read_csv("a/test_predictions.csv"))
    assert found[0]["slide_id"].is_unique
    assert len(found[0]) == 4
    pd.testing.assert_frame_equal(found[0], found[1], rtol=1e-5)


def test_resuming_after_a_kill_ends_with_the_weights_of_an_uninterrupted_fit(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [
        *("--model.encoder_lr", "1e-3", "--model.head_lr", "1e-3", "--data.batch_size", "2"),
        *("--model.refresh_every_n_epochs", "1", "--model.schedule", "cosine"),
        *("--model.warmup_steps", "2", "--model.head", "AttentionHead"),
        *("--model.head.dropout", "0.2"),
    ]
    refit = ("--model.head", "AttentionHead", "--model.head.dropout", "0.2")
    for verb in ("fit", "predict"):
        assert tuning(verb, "--run_dir", "stage1", "--model.beta", "0.1", *refit) == 0
    assert (
        main(
            [
                "select",
                "--run_dir",
                "stage1",
                "--top_k",
                "3",
                "--pool",
                "6",
                "--name",
                "top3",
                "--overwrite",
                "true",
            ]
        )
        == 0
    )
    assert tuning("fit", *TOPK, "--run_dir", "whole", *settings, epochs=4) == 0
    killed = ["--trainer.callbacks+", "tests.tasks.killer.Killer", "--trainer.callbacks.epoch", "2"]
    assert tuning("fit", *TOPK, "--run_dir", "parts", *settings, *killed, epochs=4) == 1
    assert "error: killed in epoch 2 (RuntimeError" in capsys.readouterr().err
    killed_at = weights(Path("parts"))
    resumed = [*settings, "--ckpt_path", "last"]
    assert tuning("fit", *TOPK, "--run_dir", "parts", *resumed, epochs=4) == 0
    whole, parts = weights(Path("whole")), weights(Path("parts"))
    assert any(not torch.equal(value, killed_at[name]) for name, value in whole.items())
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ["--model.encoder", "timm:test_resnet", "--model.seed", "1"],
            "\\(there, not here\\): weights.seed: 0, not 1",
        ),
        (["--model.input_px", "64"], "input_px: None, not 64.*as in the extraction"),
        (
            ["--model.encoder", "timm:resnet10t"],
            "model.encoder is not the network .* architecture: 'test_resnet', not 'resnet10t'",
        ),
        (
            ["--model.head", "GatedAttentionHead"],
            "head.class_path: .*AttentionHead', not .*GatedAttentionHead",
        ),
        (["--model.head", "AttentionHead", "--model.head.attention_dim", "8"], "other settings"),
        (["--model.stage1", "nowhere"], "no stage-1 checkpoint nowhere"),
        (["--data.selection", "top9"], "selections in this store: top3"),
        (["--data.fold", "1"], "trained on .* of the patients to validate or test on"),
        (["--data.target", "patient_id"], "fold|class"),
        (["--model.freeze_until", "layer9"], "depth 'layer9' does not exist"),
        (["--model.batchnorm", "trained", "--model.checkpoint_activations", "true"], "choose one"),
    ],
)
def test_what_does_not_fit_is_refused(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    assert tuning("fit", *TOPK, "--run_dir", "bad", *change) == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("verb", ["fit", "test"])
@pytest.mark.parametrize("damage", ["code", "cut", "empty"])
def test_a_checkpoint_that_is_damaged_or_would_run_code_is_refused_in_one_line(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str], verb: str, damage: str
) -> None:
    trace, file = Path("executed"), Path("stage1/checkpoints/best.ckpt")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2 if damage == "cut" else 0])
    if damage == "code":
        torch.save({"state_dict": {}, "hyper_parameters": Payload(trace)}, file)
    arguments = [*TOPK, "--run_dir", "tuned"] if verb == "fit" else ["--run_dir", "stage1"]
    assert tuning(verb, *arguments) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert ("could execute code" if damage == "code" else "is damaged") in line
    assert not trace.exists()


def test_a_selection_of_another_run_is_refused(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["--run_dir", "other", "--seed_everything", "3"]
    assert tuning("fit", *again) == 0
    assert tuning("fit", *TOPK, "--model.stage1", "other", "--run_dir", "bad") == 1
    assert "is not the checkpoint other" in capsys.readouterr().err


def test_a_stage1_on_another_depth_is_refused(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data.store", "s.zarr", "--data.cohort", "c.csv", "--data.qc", "false"]
    grid = ["--data.grid.patch_px", "32", "--data.grid.tissue.method", "none"]
    assert main(["extract", *data, *grid, *ENCODER, "--model.depths", "[layer2]"]) == 0
    assert tuning("fit", "--run_dir", "layer2", "--data.depth", "layer2", epochs=1) == 0
    capsys.readouterr()
    assert tuning("fit", *TOPK, "--model.stage1", "layer2", "--run_dir", "bad") == 1
    message = capsys.readouterr().err
    assert "selection 'top3' was made with stage1/checkpoints/best.ckpt" in message
    assert "run select --run_dir with the run of model.stage1" in message


@pytest.mark.parametrize(
    ("verb", "advice"),
    [("fit", r"lower data.batch_size \(now 1\)"), ("test", r"data.eval_patches \(now 64\)")],
)
def test_out_of_memory_says_what_to_lower(
    tuning_cohort: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    advice: str,
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    if verb == "test":
        assert tuning("fit", *TOPK, "--run_dir", "a", epochs=1) == 0
    monkeypatch.setattr(TopKFineTuner, "_encode_chunk", full)
    capsys.readouterr()
    assert tuning(verb, *TOPK, "--run_dir", "a", epochs=1) == 1
    assert re.search(f"out of memory: .*{advice}", capsys.readouterr().err)


def test_bf16_tunes_as_fp32_does(tuning_cohort: Path) -> None:
    found = {}
    for precision in ("32-true", "bf16-mixed"):
        settings = ["--model.encoder_lr", "1e-3", "--trainer.precision", precision]
        assert tuning("fit", *TOPK, "--run_dir", precision, *settings) == 0
        table = pd.read_csv(f"{precision}/metrics/fit/metrics.csv")
        found[precision] = np.concatenate([table[c].dropna() for c in ("train/loss", "val/loss")])
    exact, rounded = found.values()
    assert np.isfinite(rounded).all()
    np.testing.assert_allclose(rounded, exact, rtol=0.05)
    assert not np.array_equal(rounded, exact)  # it did compute in another precision


def test_moved_and_changed_slides(tuning_cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tuning_cohort / "moved").mkdir()
    (tuning_cohort / "slides").rename(tuning_cohort / "moved" / "slides")
    assert tuning("fit", *TOPK, "--run_dir", "bad") == 1
    assert "give the folder that holds the slides now with data.slides" in capsys.readouterr().err
    slide = tuning_cohort / "moved" / "slides" / "s00.tiff"
    moved = ["--data.slides", "moved"]
    assert tuning("fit", *TOPK, "--run_dir", "good", *moved, epochs=1) == 0
    slide.write_bytes(slide.with_name("s01.tiff").read_bytes())
    assert tuning("fit", *TOPK, "--run_dir", "bad", *moved) == 1
    assert "is not the file that was tiled" in capsys.readouterr().err


def test_unreadable_patches_are_replaced_and_reported(
    tuning_cohort: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Damaged:
        def __init__(self, path: Path, mpp: float) -> None:
            self.path = path
            self.plain = open_slide(path, mpp)

        def read_patch(self, x: int, y: int, px: int, mpp: float) -> object:
            if (x, y) == (0, 0):
                raise SlideError(f"{self.path} is damaged here")
            return self.plain.read_patch(x, y, px, mpp)

        def close(self) -> None:
            self.plain.close()

    monkeypatch.setattr("histotransfer_pl.data.patch_cache.open_slide", Damaged)
    assert tuning("fit", *TOPK, "--run_dir", "tuned") == 0
    assert tuning("predict", *TOPK, "--run_dir", "tuned") == 0
    table = pd.read_csv("tuned/unreadable_patches.csv")
    assert len(table) == 12  # patch 0 of every slide: predict reads them all
    assert "12 patches of 12 slides could not be read" in capsys.readouterr().err
    assert set(table["row"]) == {0}
    assert "is damaged here" in table["reason"].iloc[0]
    values = FeatureStore.open("s.zarr").slide("s00").read(attention_array(Path("tuned")))
    assert values[0, 0] == 0
    assert values[0, 1] == values[1:, 1].min()
    assert values[:, 0].sum() == pytest.approx(1, abs=1e-5)


def test_the_saved_encoder_is_that_of_the_best_epoch(tuning_cohort: Path) -> None:
    fast = ["--model.encoder_lr", "1e-3", "--checkpoint.monitor", "epoch", "--checkpoint.mode"]
    assert tuning("fit", *TOPK, "--run_dir", "tuned", *fast, "min") == 0
    saved = load_file("tuned/encoder.safetensors")
    best, last = (weights(Path("tuned"), name) for name in ("best", "last"))
    prefix = "encoder.trunk.network."
    for name, value in saved.items():
        torch.testing.assert_close(value, best[prefix + name], rtol=0, atol=0)
    assert any(not torch.equal(value, last[prefix + name]) for name, value in saved.items())


@pytest.mark.parametrize(
    "settings",
    [
        ["--trainer.precision", "bf16-mixed", "--model.checkpoint_activations", "true"],
        ["--model.batchnorm", "trained", "--model.freeze_until", "layer2", "--model.beta", "0.01"],
        ["--model.chunk_patches", "2", "--data.batch_size", "3", "--data.cache", "disk"],
    ],
)
def test_variants_train(tuning_cohort: Path, settings: list[str]) -> None:
    fast = ["--model.encoder_lr", "1e-3", "--model.weight_decay", "0.1"]
    assert tuning("fit", *TOPK, "--run_dir", "tuned", *fast, *settings) == 0
    table = pd.read_csv("tuned/metrics/fit/metrics.csv")
    assert table["val/loss"].dropna().between(0, 10).all()
    tuned, before = load_file("tuned/encoder.safetensors"), untuned()
    moved = {name.split(".")[0] for name, value in tuned.items() if (value != before[name]).any()}
    assert ("layer1" in moved) == ("layer2" not in settings)
    assert "layer4" in moved
    # 8 slides train and validate: their patches are kept in the run folder where asked for.
    assert len(list(Path("tuned").glob("patches/*.patches"))) == (8 if "disk" in settings else 0)


def untuned() -> dict[str, torch.Tensor]:
    encoder = build_encoder(EncoderConfig("timm:test_resnet", "random"))
    return dict(encoder.network.state_dict())


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tuning_cohort: Path) -> None:
    settings = [
        *("--model.encoder_lr", "1e-4", "--model.refresh_every_n_epochs", "1"),
        *("--data.store", "s.zarr", "--data.cohort", "c.csv", "--data.n_folds", "3"),
        *("--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
        *("--trainer.accelerator", "cpu", "--model.optimizer", "torch.optim.SGD"),
    ]
    ranks = {
        "one": ["--data.batch_size", "2"],
        "two": ["--trainer.devices", "2", "--trainer.strategy", "ddp"],
    }
    for name, own in ranks.items():
        program = [sys.executable, "-m", "histotransfer_pl", "fit", "--run_dir", name]
        environment = {**os.environ, "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        subprocess.run([*program, *TOPK, *settings, *own], check=True, env=environment)
    one, two = weights(Path("one")), weights(Path("two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-6, msg=key)
    metrics = [pd.read_csv(f"{name}/metrics/fit/metrics.csv")["val/loss"] for name in ranks]
    pd.testing.assert_series_equal(metrics[0], metrics[1], rtol=1e-3)
