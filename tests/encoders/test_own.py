"""Encoders of one's own: any network by its class path, cut at modules by their names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from histotransfer_pl.cli.main import main
from histotransfer_pl.encoders.catalogue import find_entry
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.cost import count_costs
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.errors import EncoderError, WeightsError
from histotransfer_pl.store.feature_store import FeatureStore
from tests.encoders.test_truncation import random_patches, recorded

HISTOBLUR = Path(__file__).parents[2] / "configs" / "encoders" / "histoblur_10x.yaml"
DEPTHS = ["stem", "denseblock1", "denseblock2", "denseblock3", "denseblock4", "norm5"]


class Tokens(nn.Module):
    """Tokens (B, 1 + 4, 6) of 2 x 2 pieces, then a classifier whose weights its parent uses."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, width))
        self.embed = nn.Conv2d(3, width, 16, 16)
        self.block = nn.TransformerEncoderLayer(width, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 3)

    @override
    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        x = self.block(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        return nn.functional.linear(x[:, 0], self.head.weight, self.head.bias)


def described(folder: Path, **said: object) -> str:
    lines = [f"{key}: {value}" for key, value in said.items()]
    path = folder / "mine.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def tokens(folder: Path, **said: object) -> str:
    usual: dict[str, object] = {
        "class_path": "tests.encoders.test_own.Tokens",
        "depths": "{embed: embed, block: block}",
        "native_px": 32,
        "prefix_tokens": 1,
        "pooling": "token",
    }
    return described(folder, **(usual | said))


def test_the_densenet_of_histoblur_is_cut_at_its_modules(data_root: Path) -> None:
    file = data_root / "weights" / "densenet_histoblur_10x.safetensors"
    encoder = build_encoder(EncoderConfig(str(HISTOBLUR), weights=str(file), depths="all"))
    network = torchvision.models.DenseNet(16, (2, 2, 2, 2), 64, 4, num_classes=3).eval()
    state = safetensors.torch.load_file(file)
    network.load_state_dict(state)
    assert sum(value.numel() for value in state.values()) == 127_252
    places = {depth: f"features.{depth}" for depth in DEPTHS[1:]} | {"stem": "features.pool0"}
    patches = random_patches(2, 64)
    with torch.inference_mode(), recorded(network, places) as outputs:
        network(patches.permute(0, 3, 1, 2) / 255)
        features = encoder(patches)
    assert encoder.depths == DEPTHS
    for depth in DEPTHS:
        expected = outputs[depth].mean((2, 3))
        torch.testing.assert_close(features[depth], expected, rtol=1e-5, atol=1e-6)
        assert encoder.dims[depth] == expected.shape[1]
    assert encoder.spec.architecture == "torchvision.models.DenseNet"
    assert encoder.spec.model_args["growth_rate"] == 16
    assert encoder.name == "histoblur_10x"


def test_what_lies_behind_the_cut_is_neither_kept_nor_run() -> None:
    entry = find_entry(str(HISTOBLUR))
    rows = count_costs(entry, 64)
    assert [row.depth for row in rows] == DEPTHS
    assert [row.macs for row in rows] == sorted(row.macs for row in rows)
    for row in rows[:-1]:
        config = EncoderConfig(str(HISTOBLUR), weights="random", depths=[row.depth])
        encoder = build_encoder(config)
        kept = set(encoder.network.state_dict())
        assert kept == {key for key in kept if key.startswith("features.")}
        assert sum(p.numel() for p in encoder.parameters()) == row.parameters
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            encoder(random_patches(1, 64))
        assert counter.get_total_flops() == 2 * row.macs
    assert rows[0].parameters == 64 * 3 * 49 + 2 * 64


def test_a_cut_encoder_comes_back_from_its_file(tmp_path: Path) -> None:
    config = EncoderConfig(str(HISTOBLUR), weights="random", seed=3, depths=["denseblock2"])
    encoder = build_encoder(config)
    encoder.save(tmp_path / "cut.safetensors", {"fold": 1})
    file = str(tmp_path / "cut.safetensors")
    back = build_encoder(EncoderConfig(str(HISTOBLUR), weights=file, depths=["denseblock2"]))
    patches = random_patches(1, 64)
    torch.testing.assert_close(back(patches), encoder(patches), rtol=0, atol=0)
    with pytest.raises(WeightsError, match="missing"):
        build_encoder(EncoderConfig(str(HISTOBLUR), weights=file, depths=["norm5"]))


@pytest.mark.parametrize("pooling", ["token", "mean", "token_and_mean"])
def test_tokens_are_pooled_as_the_description_says(pooling: str, tmp_path: Path) -> None:
    name = tokens(tmp_path, pooling=pooling)
    encoder = build_encoder(EncoderConfig(name, weights="random", depths=["block"]))
    network = encoder.network
    assert not isinstance(network.get_submodule("block"), nn.Identity)
    patches = random_patches(2, 32)
    with torch.no_grad(), recorded(network, {"block": "block"}) as outputs:
        features = encoder(patches)["block"]
    token, mean = outputs["block"][:, 0], outputs["block"][:, 1:].mean(1)
    expected = {"token": token, "mean": mean, "token_and_mean": torch.cat([token, mean], 1)}
    torch.testing.assert_close(features, expected[pooling])


def test_a_network_of_timm_can_be_described_with_its_arguments(tmp_path: Path) -> None:
    arguments = "{embed_dim: 24, depth: 2, num_heads: 2, reg_tokens: 3, init_values: 0.1}"
    name = described(
        tmp_path,
        architecture="vit_tiny_patch16_224",
        model_args=arguments,
        pooling="token_and_mean",
        mean="[0.5, 0.5, 0.5]",
        drop="[head.]",
    )
    encoder = build_encoder(EncoderConfig(name, weights="random", depths="all"))
    assert encoder.dims == {"block0": 48, "block1": 48, "norm": 48}
    assert encoder.spec.mean == (0.5, 0.5, 0.5)
    assert "reg_token" in encoder.network.state_dict()


BAD: list[tuple[dict[str, object], str]] = [
    ({"class_path": "torchvision.models.NoNet"}, r"can't be built: .*NoNet.*import path"),
    ({"class_path": "nowhere.at.all"}, r"can't be built: No module named 'nowhere'"),
    ({"init_args": "{breadth: 3}"}, r"can't be built: .*breadth"),
    ({"class_path": "builtins.dict"}, r"gives a dict, expected a torch nn.Module"),
    ({"depths": "{end: layer9}"}, r"no module 'layer9'; its modules are token|embed"),
    ({"depths": "{block: block, embed: embed}"}, r"in the order in which they end"),
    ({"depths": "{head: head}"}, r"must be modules that run"),
    ({"breadth": 3}, r"describes no encoder: found \['breadth'\], expected"),
    ({"architecture": "resnet18"}, r"must say either class_path with depths"),
    ({"prefix_tokens": 0}, r"pooling 'token' needs a class token"),
]


@pytest.mark.parametrize(("said", "message"), BAD)
def test_a_description_that_cannot_be_followed_says_why(
    said: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(EncoderError, match=message):
        build_encoder(EncoderConfig(tokens(tmp_path, **said), weights="random", depths="all"))


def test_a_description_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="can't be read as the description"):
        find_entry(str(tmp_path / "none.yaml"))


@pytest.fixture
def tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 tiles of 12 patients; the second class is striped."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(24):
        pixels = rng.integers(80, 220, (32, 32, 3), np.uint8)
        pixels[:: 8 if i % 2 else 32] //= 2
        Image.fromarray(pixels).save(tmp_path / f"t{i:02}.png")
        rows.append((f"t{i:02}.png", f"p{i // 2:02}", ["plain", "striped"][i % 2]))
    table = pd.DataFrame(rows, columns=["path", "patient_id", "label"])
    table.to_csv("tiles.csv", index=False)


@pytest.mark.slow
def test_gain_probes_an_encoder_of_ones_own(tiles: None, data_root: Path) -> None:
    file = data_root / "weights" / "densenet_histoblur_10x.safetensors"
    encoder = ("--encoder.name", str(HISTOBLUR), "--encoder.weights", str(file))
    probe = ("--probe.n_folds", "3", "--probe.n_inner_folds", "2", "--probe.penalties", "[1.0]")
    depths = ("--encoder.depths", "[stem, norm5]")
    assert (
        main(["gain", *encoder, *depths, *probe, "--tiles", "tiles.csv", "--output", "g.csv"]) == 0
    )
    assert list(pd.read_csv("g.csv")["layer"]) == ["stem", "norm5"]


def test_similarity_and_extract_take_an_encoder_of_ones_own(
    tuning_cohort: Path, data_root: Path
) -> None:
    file = data_root / "weights" / "densenet_histoblur_10x.safetensors"
    own = {"name": str(HISTOBLUR), "weights": str(file), "input_px": 64}
    grid = ("--data.grid.patch_px", "32", "--data.grid.tissue.method", "none")
    store = ("--data.store", "own.zarr", "--data.cohort", "c.csv", "--data.qc", "false")
    encoder = ("--model.encoder", json.dumps([{**own, "depths": "all"}]))
    assert main(["extract", *encoder, *store, *grid]) == 0
    slide = FeatureStore.open(Path("own.zarr")).slide("s00")
    assert [f"histoblur_10x/{depth}" for depth in DEPTHS] == sorted(
        (str(name).removeprefix("features/") for name in slide.arrays()), key=_order
    )
    first = [f"--model.first.{key}={value}" for key, value in own.items()]
    second = [
        f"--model.second.{key}={value}" for key, value in (own | {"weights": "random"}).items()
    ]
    pair = (*first, "--model.first.depths=[stem,norm5]", *second, "--model.second.depths=[norm5]")
    place = ("--data.store", "own.zarr", "--trainer.accelerator", "cpu", "--output", "cka.csv")
    assert main(["similarity", *pair, *place]) == 0
    assert list(pd.read_csv("cka.csv")["layer"]) == ["stem", "norm5"]


def _order(name: str) -> int:
    return DEPTHS.index(name.rsplit("/", maxsplit=1)[-1])
