"""Adapters, last blocks and a frozen encoder through the command line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from histotransfer_pl.cli.main import main
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path
from tests.cli.test_ddp import in_two_processes
from tests.tuning import TOPK, tuning

LORA = ["--model.tuning", "lora", "--model.lora.rank", "2"]
FAST = ["--model.encoder_lr", "1e-2"]


def encoder_weights(run: str) -> dict[str, torch.Tensor]:
    state = torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {key: value for key, value in state.items() if key.startswith("encoder.")}


def test_adapters_are_saved_alone_resume_exactly_and_extract(tuning_cohort: Path) -> None:
    assert tuning("fit", *TOPK, "--run_dir", "whole", *LORA, *FAST) == 0
    saved = load_file("whole/encoder.safetensors")
    assert saved
    assert all("lora_" in key for key in saved)
    assert any(bool(value.any()) for key, value in saved.items() if "lora_B" in key), "trained"
    kept = {key.rpartition(".")[2] for key in encoder_weights("whole") if "lora_" not in key}
    assert kept == {"running_mean", "running_var", "num_batches_tracked"}, "its base has a file"
    cost = json.loads(Path("whole/tuning_cost.json").read_text())
    assert cost["trained_parameters"] == sum(value.numel() for value in saved.values())
    assert 0 < cost["trained_parameters"] < 0.3 * cost["parameters"]
    assert cost["peak_mib"] > cost["parameters"] * 4 / 2**20, "more than the weights"
    assert cost["seconds_per_epoch"] > 0

    assert tuning("fit", *TOPK, "--run_dir", "halves", *LORA, *FAST, epochs=1) == 0
    again = ["--ckpt_path", "last", "--run_dir", "halves"]
    assert tuning("fit", *TOPK, *again, *LORA, *FAST) == 0
    whole, halves = encoder_weights("whole"), encoder_weights("halves")
    assert whole.keys() == halves.keys()
    assert all(torch.equal(value, halves[key]) for key, value in whole.items())
    assert tuning("test", *TOPK, "--run_dir", "whole", *LORA) == 0

    data = ["--data.store", "s.zarr", "--data.cohort", "c.csv", "--data.qc", "false"]
    grid = ["--data.grid.patch_px", "32", "--data.grid.tissue.method", "none"]
    encoder = ["--model.encoder", "timm:test_resnet", "--model.alias", "adapted"]
    assert (
        main(["extract", *data, *grid, *encoder, "--model.weights", "whole/encoder.safetensors"])
        == 0
    )
    slide = FeatureStore.open("s.zarr").slide("s00")
    facts = slide.info(feature_path("adapted", "layer4")).attributes
    assert facts["tuned_on_patients"]
    frozen = slide.read(feature_path("timm_test_resnet-random0", "layer4"))
    assert abs(slide.read(feature_path("adapted", "layer4")) - frozen).max() > 0


def test_merged_adapters_are_the_whole_encoder(tuning_cohort: Path) -> None:
    merged = ["--model.lora.merge", "true", "--run_dir", "merged"]
    assert tuning("fit", *TOPK, *merged, *LORA, *FAST, epochs=1) == 0
    saved = load_file("merged/encoder.safetensors")
    assert not any("lora" in key for key in saved)
    assert "conv1.0.weight" in saved or "conv1.weight" in saved


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        (["--model.tuning", "last_blocks", "--model.last_blocks", "1"], {"layer4"}),
        (["--model.tuning", "frozen"], set()),
    ],
)
def test_only_the_blocks_that_are_meant_move(
    settings: list[str], trained: set[str], tuning_cohort: Path
) -> None:
    for name, epochs in (("one", 1), ("two", 2)):
        run = ["--run_dir", name, *settings, *FAST]
        assert tuning("fit", *TOPK, *run, epochs=epochs) == 0
    one, two = encoder_weights("one"), encoder_weights("two")
    moved = {key.split(".")[3] for key, value in one.items() if not torch.equal(value, two[key])}
    assert moved == trained


@pytest.mark.slow
def test_adapters_trained_in_two_processes_are_those_of_one(tuning_cohort: Path) -> None:
    settings = [*LORA, "--model.encoder_lr", "0.1", "--model.optimizer", "SGD"]
    settings += ["--data.augment", "false", "--data.store", "s.zarr", "--data.cohort", "c.csv"]
    settings += ["--data.n_folds", "3", "--trainer.max_epochs", "2"]
    assert main(["fit", *TOPK, *settings, "--run_dir", "one", "--data.batch_size", "2"]) == 0
    two = ["--run_dir", "two", "--data.batch_size", "1"]
    in_two_processes(Path(), "fit", *TOPK, *settings, *two)
    one, two_ = (load_file(f"{run}/encoder.safetensors") for run in ("one", "two"))
    assert one.keys() == two_.keys()
    moved = {key: value for key, value in one.items() if "lora_B" in key}
    assert all(bool(value.any()) for value in moved.values())
    for key, value in one.items():
        near = 1e-4 * float(value.abs().max())
        torch.testing.assert_close(
            two_[key],
            value,
            rtol=1e-4,
            atol=near,
        )
    heads = [
        torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in ("one", "two")
    ]
    for key in (key for key in heads[0] if key.startswith("head.")):
        torch.testing.assert_close(heads[1][key], heads[0][key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--model.tuning", "last_blocks", "--model.last_blocks", "9"], "give 1 to 4"),
        (["--model.tuning", "lora", "--model.lora.layers", "[attn.qkv]"], "which no layer of this"),
    ],
)
def test_what_cannot_be_trained_is_named(
    settings: list[str], message: str, tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tuning("fit", *TOPK, "--run_dir", "none", *settings) == 1
    assert message in capsys.readouterr().err
