"""similarity through the command line: files, facts, and what the report reads of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.cli.main import main
from histotransfer_pl.report.similarity import heatmap, read_similarities

ENCODER = "timm:test_resnet"
PAIR = (
    *("--model.first.name", ENCODER, "--model.first.weights", "random"),
    *("--model.first.depths", "[stem, layer1]", "--model.second.name", ENCODER),
    *("--model.second.weights", "random", "--model.second.seed", "1"),
)
DATA = ("--data.store", "s.zarr", "--trainer.accelerator", "cpu")


def test_files_are_what_the_report_reads(tuning_cohort: Path) -> None:
    output = Path("study/similarity/pair.csv")
    assert main(["similarity", *PAIR, *DATA, "--output", str(output)]) == 0
    found, problems = read_similarities(Path("study"))
    assert problems == []
    assert [one.name for one in found] == ["pair", "pair_flattened"]
    table = pd.read_csv(output).set_index("layer")
    assert found[0].layers_x == ("stem", "layer1")
    assert found[0].layers_y == ("stem", "layer1", "layer2", "layer3", "layer4")
    np.testing.assert_array_equal(found[0].values, table.to_numpy())
    assert found[0].n == "n = 144 patches"
    assert found[0].sides == ("timm_test_resnet-random0", "timm_test_resnet-random1")
    assert b"<svg" in heatmap(found[0]).svg


def test_facts_say_n_d_controls_and_hashes(tuning_cohort: Path) -> None:
    assert main(["similarity", *PAIR, *DATA, "--output", "a.csv"]) == 0
    facts = json.loads(Path("a.json").read_text())
    assert facts["n"] == 144
    assert facts["slides"] == 12
    assert facts["d_x"] == {"stem": 32, "layer1": 32}
    assert facts["encoder_x"]["weights_sha256"] == "random:0"
    assert facts["encoder_y"]["weights_sha256"] == "random:1"
    assert list(facts["controls"]["with itself"].values()) == pytest.approx([1, 1], abs=1e-5)
    assert set(facts["controls"]["with random"]) == {"stem", "layer1"}
    assert facts["random_batchnorm_patches"]["timm_test_resnet-random2"] == 144
    wide = json.loads(Path("a_flattened.json").read_text())
    assert wide["d_x"]["stem"] > 32


def test_same_settings_same_matrix_and_the_other_way_round_its_transpose(
    tuning_cohort: Path,
) -> None:
    small = ("--data.n_patches", "60", "--data.batch_size", "20", "--model.flattened", "false")
    swapped = [word.replace("first", "1st").replace("second", "first") for word in PAIR]
    swapped = [word.replace("1st", "second") for word in swapped]
    for name, pair in (("a", PAIR), ("b", PAIR), ("c", swapped)):
        assert main(["similarity", *pair, *DATA, *small, "--output", f"{name}.csv"]) == 0
    a, b, c = (pd.read_csv(f"{name}.csv", index_col="layer") for name in "abc")
    pd.testing.assert_frame_equal(a, b)
    pd.testing.assert_frame_equal(a, c.T.rename_axis("layer"), atol=1e-6, check_names=False)


def test_a_tuned_encoder_is_held_against_the_patients_it_saw(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from histotransfer_pl.encoders.config import EncoderConfig
    from histotransfer_pl.encoders.encoder import build_encoder

    tuned = build_encoder(EncoderConfig(ENCODER, weights="random"))
    tuned.save(Path("w.safetensors"), {"tuned_on_patients": ["p00", "p01", "elsewhere"]})
    settings = ("--model.first.weights", "w.safetensors", "--data.cohort", "c.csv")
    assert main(["similarity", *PAIR, *DATA, *settings, "--output", "t.csv"]) == 0
    facts = json.loads(Path("t.json").read_text())
    assert facts["tuned_on_patients_among_them"] == {"timm_test_resnet": 2}
    assert "was tuned on patients of these patches" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model.first.depths", "[stage9]"), "depth 'stage9' does not exist"),
        (("--data.part", "test"), "give the cohort table with data.cohort"),
        (("--data.slides", "elsewhere"), "no folder elsewhere"),
        (("--data.store", "nowhere.zarr"), "nowhere.zarr"),
    ],
)
def test_errors_are_one_line(
    tuning_cohort: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert main(["similarity", *PAIR, *DATA, *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not Path("similarity.csv").exists()


def test_a_store_of_arrays_has_no_patches(
    cohort: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(cohort)
    assert main(["similarity", *PAIR, *DATA]) == 1
    assert "was imported from arrays and has no patches" in capsys.readouterr().err
