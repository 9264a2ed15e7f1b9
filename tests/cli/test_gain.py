"""gain through the command line: on tiles of images and slides, and on features of a store."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from histotransfer_pl.analysis.probe import linear_probe
from histotransfer_pl.cli.main import main
from histotransfer_pl.data.labelled_tiles import read_tiles
from histotransfer_pl.data.patch_sample import PatchSampleDataModule
from histotransfer_pl.encoders.batchnorm import reestimate_batchnorm
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.errors import CohortError, StoreMismatchError
from histotransfer_pl.records.attributes import ENCODER as RECORD
from histotransfer_pl.report.gain import gain_figure, read_gains
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.slides.synthetic import write_pyramid
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.tasks.gain import require_same_network
from histotransfer_pl.tasks.layer_probe import RandomBatchNorm, tile_features
from histotransfer_pl.tasks.random_slides import random_slide_means

NAME = "timm:test_resnet"
PROBE = ("--probe.n_folds", "3", "--probe.n_inner_folds", "2", "--probe.penalties", "[0.01, 1.0]")
ENCODER = ("--encoder.name", NAME, "--encoder.weights", "w.safetensors")
TILES = (*ENCODER, "--encoder.depths", "[stem, layer1]", *PROBE, "--tiles", "tiles.csv")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """48 tiles of 12 patients in ``tiles.csv``; the second class is striped. And weights."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(48):
        pixels = rng.integers(80, 220, (32, 32, 3), np.uint8)
        if i % 2:  # faint, so that the probe is neither perfect nor blind
            pixels[::8] = pixels[::8] // 10 * 9
        Image.fromarray(pixels).save(tmp_path / f"t{i:02}.png")
        rows.append((f"t{i:02}.png", f"p{i // 4:02}", ["plain", "striped"][i % 2]))
    table = pd.DataFrame(rows, columns=["path", "patient_id", "label"])
    table.sample(frac=1, random_state=0).to_csv("tiles.csv", index=False)
    build_encoder(EncoderConfig(NAME, weights="random", seed=77)).save(Path("w.safetensors"), {})
    return tmp_path


def test_the_table_is_the_probe_of_both_arms_and_the_report_reads_it(images: Path) -> None:
    output = Path("study/gain/resnet.csv")
    assert main(["gain", *TILES, "--output", str(output)]) == 0
    curves, problems = read_gains(Path("study"))
    assert problems == []
    assert curves[0].n == "n = 48 tiles, 3 folds, 5 random networks"
    assert b"<svg" in gain_figure(curves[0]).svg
    table = pd.read_csv(output).set_index("layer")
    assert list(table.index) == ["stem", "layer1"]
    tiles = read_tiles(Path("tiles.csv"), label="label", group="patient_id")
    weights = EncoderConfig(NAME, weights="w.safetensors", depths=["stem", "layer1"])
    expected = linear_probe(
        tile_features(build_encoder(weights), tiles, 7),
        tiles.labels,
        tiles.groups,
        n_folds=3,
        n_inner_folds=2,
        penalties=[0.01, 1.0],
    )
    assert expected.scores["layer1"].mean() < 1
    for layer, scores in expected.scores.items():
        assert table.loc[layer, "pretrained"] == pytest.approx(scores.mean(), abs=1e-3)
    np.testing.assert_allclose(table["gain"], table["pretrained"] - table["random"])
    np.testing.assert_allclose(table["increment"], np.diff(table["gain"], prepend=0))
    assert table["parameters"].is_monotonic_increasing
    assert table["macs"].is_monotonic_increasing


def test_facts_say_what_was_measured(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gain", *TILES]) == 0
    facts = json.loads(Path("gain.json").read_text())
    assert facts["n"] == 48
    assert facts["groups"] == 12
    assert facts["classes"] == {"plain": 24, "striped": 24}
    assert len(facts["weights_sha256"]) == 64
    assert facts["random_seeds"] == [0, 1, 2, 3, 4]
    assert facts["random_batchnorm"].startswith("re-estimated")
    assert facts["counted_px"] == 32
    assert facts["sweet_spot"] in ("stem", "layer1")
    assert "knowledge gain of timm_test_resnet, 48 tiles, auroc" in capsys.readouterr().out


def test_the_random_arm_may_keep_its_initial_statistics(images: Path) -> None:
    for name in ("reestimated", "initial", "both"):
        assert main(["gain", *TILES, "--random_batchnorm", name, "--output", f"{name}.csv"]) == 0
    again, initial, both = (
        pd.read_csv(f"{name}.csv") for name in ("reestimated", "initial", "both")
    )
    pd.testing.assert_series_equal(again["pretrained"], initial["pretrained"])
    assert (again["random"] != initial["random"]).any()
    facts = json.loads(Path("initial.json").read_text())
    assert facts["random_batchnorm"] == "initial (mean 0, variance 1)"
    # asked for both, each is what it is alone
    pd.testing.assert_frame_equal(both[again.columns], again)
    for column in ("random", "gain", "standard_error"):
        np.testing.assert_allclose(both[f"{column}_initial"], initial[column])
    assert (
        "; in the columns ..._initial"
        in json.loads(Path("both.json").read_text())["random_batchnorm"]
    )


def test_tiles_of_slides_are_read_at_their_places(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    (tmp_path / "slides").mkdir()
    rows = []
    for name in ("b", "a"):
        pixels = rng.integers(0, 256, (128, 128, 3), np.uint8)
        write_pyramid(tmp_path / "slides" / f"{name}.tiff", pixels, 0.5)
        rows += [(name, x, 32, name, int(x > 0)) for x in (64, 0)]
    columns = ["slide_id", "x", "y", "patient_id", "label"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "tiles.csv", index=False)
    settings = {"label": "label", "group": "patient_id", "folder": tmp_path / "slides"}
    tiles = read_tiles(tmp_path / "tiles.csv", patch_px=32, mpp=1.0, **settings)  # type: ignore[arg-type]
    found = np.concatenate([batch.numpy() for batch in tiles.batches(3)])
    for pixels, (_, row) in zip(found, tiles.table.iterrows(), strict=True):
        with open_slide(tmp_path / "slides" / f"{row['slide_id']}.tiff") as reader:
            expected = reader.read_patch(int(row["x"]), int(row["y"]), 32, 1.0)
        np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(tiles.labels, tiles.table["x"] > 0)
    larger = read_tiles(tmp_path / "tiles.csv", patch_px=64, mpp=1.0, **settings)  # type: ignore[arg-type]
    with pytest.raises(CohortError, match="is not inside the slide .* give the --patch_px"):
        next(larger.batches(4))


def _random_networks(seeds: list[int]) -> None:
    for seed in seeds:
        arguments = [
            "--model.encoder",
            NAME,
            "--model.weights",
            "random",
            "--model.seed",
            str(seed),
        ]
        data = ["--data.store", "s.zarr", "--data.cohort", "c.csv", "--data.qc", "false"]
        grid = ["--data.grid.patch_px", "32", "--data.grid.tissue.method", "none"]
        assert main(["extract", *arguments, *data, *grid, "--trainer.accelerator", "cpu"]) == 0


def test_features_of_slides_are_probed_as_means(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the cohort's own features have random weights: as "pretrained" arm under another name
    build_encoder(EncoderConfig(NAME, weights="random", seed=77)).save(Path("w.safetensors"), {})
    grid = ["--data.grid.patch_px", "32", "--data.grid.tissue.method", "none"]
    data = ["--data.store", "s.zarr", "--data.cohort", "c.csv", "--data.qc", "false", *grid]
    model = ["--model.encoder", NAME, "--model.weights", "w.safetensors"]
    assert main(["extract", *model, *data, "--trainer.accelerator", "cpu"]) == 0
    _random_networks([1, 2, 3, 4])
    places = ("--store", "s.zarr", "--cohort", "c.csv", "--output", "slides.csv")
    assert main(["gain", *ENCODER, *PROBE, *places]) == 0
    encoded = json.loads(Path("slides.json").read_text())
    assert encoded["random_seeds"] == [0, 1, 2, 3, 4]
    assert encoded["random_batchnorm"].startswith("re-estimated")
    assert encoded["counted_px"] == 32
    names = [f"timm_test_resnet-random{i}" for i in range(5)]
    assert main(["gain", *ENCODER, *PROBE, *places, "--random", f"[{','.join(names)}]"]) == 0
    table = pd.read_csv("slides.csv").set_index("layer")
    store = FeatureStore.open(Path("s.zarr"))
    cohort = pd.read_csv("c.csv").sort_values("slide_id")
    means = np.stack(
        [
            store.slide(name).read("features/timm_test_resnet/layer4").mean(0, dtype=np.float32)
            for name in cohort["slide_id"]
        ]
    )
    expected = linear_probe(
        {"layer4": means},
        cohort["label"].to_numpy(),
        cohort["patient_id"].to_numpy(str),
        n_folds=3,
        n_inner_folds=2,
        penalties=[0.01, 1.0],
    )
    found = table.loc["layer4", "pretrained"]
    assert found == pytest.approx(expected.scores["layer4"].mean(), abs=1e-6)
    facts = json.loads(Path("slides.json").read_text())
    assert facts["n"] == 12
    assert facts["random_networks"] == names
    lacking = (*places, "--random", f"[{','.join([*names[:4], 'timm_test_resnet-random9'])}]")
    capsys.readouterr()
    assert main(["gain", *ENCODER, *PROBE, *lacking]) == 1
    assert "12 of 12 slides have no features/timm_test_resnet-random9" in capsys.readouterr().err
    twice = (*places, "--random", f"[{','.join(['timm_test_resnet'] * 5)}]")
    assert main(["gain", *ENCODER, *PROBE, *twice]) == 1
    assert "timm_test_resnet is no random network" in capsys.readouterr().err


def test_stored_features_of_another_network_are_refused(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slide = FeatureStore.open(Path("s.zarr")).slide("s00")
    name = slide.features()[0][0]
    other = ("--encoder.name", "timm:test_vit", "--encoder.alias", name)
    places = ("--encoder.depths", "[layer4]", "--store", "s.zarr", "--cohort", "c.csv")
    assert main(["gain", *other, *places, *PROBE]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"features of {name} in the store are not those of this encoder" in line
    assert "architecture: " in line
    facts = slide.info(f"features/{name}/layer4").attributes
    config = EncoderConfig(NAME, alias=name)
    require_same_network(config, facts)
    spec = {**facts[RECORD], "pooling": "mean_tokens"}
    with pytest.raises(StoreMismatchError, match="pooling: 'mean_tokens', not 'average'"):
        require_same_network(config, {**facts, RECORD: spec})


def test_random_networks_on_slides_see_the_patches_of_the_store(tuning_cohort: Path) -> None:
    data = PatchSampleDataModule(Path("s.zarr"), Path("c.csv"), batch_size=144)
    data.setup("predict")
    ids = [f"s{i:02}" for i in reversed(range(12))]
    config = EncoderConfig(NAME, depths=["stem", "layer4"])
    networks: list[tuple[int, RandomBatchNorm]] = [(0, "reestimated"), (3, "reestimated")]
    networks.append((3, "initial"))
    found = random_slide_means(config, networks, data, ids, "cpu")
    store = FeatureStore.open(Path("s.zarr"))
    for (seed, batchnorm), layers in zip(networks, found, strict=True):
        plain = EncoderConfig(NAME, weights="random", seed=seed, depths=["stem", "layer4"])
        encoder = build_encoder(plain)
        patches = []
        for slide_id in ids:
            with open_slide(Path("slides") / f"{slide_id}.tiff") as reader:
                coords = store.slide(slide_id).coords()
                patches.append([reader.read_patch(int(x), int(y), 32, 0.5) for x, y in coords])
        pixels = torch.from_numpy(np.array(patches))  # (S, N, P, P, 3)
        if batchnorm == "reestimated":
            reestimate_batchnorm(encoder, [pixels.flatten(0, 1)])
        with torch.inference_mode():
            expected = [encoder(some)["layer4"].mean(0).numpy() for some in pixels]
        np.testing.assert_allclose(layers["layer4"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--label", "stain"), "no column stain"),
        (("--label", "one"), "has only the class \\['x'\\]"),
        (("--encoder.depths", "[stage9]"), "depth 'stage9' does not exist"),
        (("--random_seeds", "[0, 1]"), "2 random networks, at least 5"),
        (("--random_seeds", "[0, 0, 1, 2, 3]"), "names a seed twice"),
        (("--encoder.weights", "random"), "the random arm is made by random_seeds"),
        (("--store", "s.zarr"), "give either --tiles .* or --store"),
        (("--probe.n_folds", "13"), "13 folds with 2 inside need at least 13"),
    ],
)
def test_errors_are_one_line(
    images: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    table = pd.read_csv("tiles.csv").assign(one="x")
    table.to_csv("tiles.csv", index=False)
    assert main(["gain", *TILES, *arguments]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not Path("gain.csv").exists()


def test_tiles_of_two_sizes_and_broken_tiles_are_named(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 40)).save("t07.png")
    assert main(["gain", *TILES]) == 1
    assert "t07.png has the shape (40, 40, 3)" in capsys.readouterr().err
    Path("t07.png").write_text("no image")
    assert main(["gain", *TILES]) == 1
    assert "t07.png cannot be read (UnidentifiedImageError: " in capsys.readouterr().err
    Image.new("1", (20_000, 10_000)).save("t07.png")  # 25 kB that would be 600 MB
    assert main(["gain", *TILES]) == 1
    assert "t07.png cannot be read (DecompressionBombError: " in capsys.readouterr().err
