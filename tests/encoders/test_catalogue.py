"""The catalogue states facts; timm and the built networks are their judges."""

import json
from typing import Any

import pytest
import timm
import torch

from histotransfer_pl.encoders.catalogue import CATALOGUE, find_entry
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.cost import count_costs
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.encoders.listing import catalogue_text, describe_catalogue
from histotransfer_pl.errors import EncoderError
from tests.encoders.test_truncation import random_patches

FROM_TIMM = [
    name
    for name, entry in CATALOGUE.items()
    if entry.source.hub_repo and entry.source.hub_repo.startswith("timm/")
]


def test_the_networks_of_both_papers_and_their_time_are_there() -> None:
    wanted = {
        "resnet18 resnet34 resnet50 densenet121 efficientnet_b0 tf_efficientnet_lite0",
        "mobilenetv2_100 convnext_tiny vit_small_dino kimianet ciga_resnet18 mormont_resnet50",
        "mormont_densenet121 lunit_vit_small_dino lunit_resnet50_swav lunit_resnet50_bt",
        "lunit_resnet50_moco phikon uni",
    }
    assert {name for line in wanted for name in line.split()} == set(CATALOGUE)


@pytest.mark.parametrize("name", FROM_TIMM)
def test_normalisation_licence_and_classifier_are_those_timm_states(name: str) -> None:
    entry = CATALOGUE[name]
    assert entry.source.hub_repo is not None
    stated = timm.get_pretrained_cfg(entry.source.hub_repo.removeprefix("timm/"))
    assert stated is not None
    assert (entry.mean, entry.std) == (stated.mean, stated.std)
    assert entry.native_px == stated.input_size[-1]
    assert entry.licence == stated.license
    assert entry.keys.drop == (f"{stated.classifier}.",)


@pytest.fixture(scope="module")
def described() -> list[dict[str, Any]]:
    return describe_catalogue()


def test_declared_dims_are_those_of_the_network_at_every_depth(
    described: list[dict[str, Any]],
) -> None:
    counted = {row["name"]: {d["depth"]: d["dim"] for d in row["depths"]} for row in described}
    assert counted == {name: dict(entry.dims) for name, entry in CATALOGUE.items()}
    assert all(list(counted[name]) == list(entry.dims) for name, entry in CATALOGUE.items())


@pytest.mark.parametrize("name", ["kimianet", "lunit_resnet50_swav", "lunit_vit_small_dino"])
def test_entries_give_vectors_of_the_declared_dims(name: str) -> None:
    encoder = build_encoder(EncoderConfig(name, weights="random", depths="all"))
    with torch.inference_mode():
        features = encoder(random_patches(2, 64))
    assert {depth: tuple(vector.shape) for depth, vector in features.items()} == {
        depth: (2, dim) for depth, dim in CATALOGUE[name].dims.items()
    }


@pytest.mark.parametrize(
    ("name", "near"), [("resnet81", "resnet18"), ("kimia", "kimianet"), ("xyzzy", "timm:<name>")]
)
def test_an_unknown_encoder_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(EncoderError, match=near):
        find_entry(name)


@pytest.mark.parametrize("name", ["timm:resnet1800", "timm:resnet18.a9_in1k", "timm:"])
def test_an_unknown_network_of_timm_is_an_error(name: str) -> None:
    with pytest.raises(EncoderError, match=r"near it are .*resnet"):
        find_entry(name)


def test_any_network_of_timm_is_an_entry_with_timms_facts() -> None:
    entry = find_entry("timm:tf_efficientnet_lite1.in1k")
    assert entry.mean == (0.5, 0.5, 0.5)
    assert entry.native_px == 240
    assert entry.source.hub_repo == "timm/tf_efficientnet_lite1.in1k"
    assert entry.keys.drop == ("classifier.",)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("timm:resnet26", ("stem", 64), ("layer4", 2048)),
        ("timm:vit_tiny_patch16_224", ("block0", 192), ("norm", 192)),
        ("timm:mobilenetv3_small_050", ("feature0", 16), ("feature4", 288)),
    ],
)
def test_networks_outside_the_catalogue_find_their_dims(name: str, first: Any, last: Any) -> None:
    encoder = build_encoder(EncoderConfig(name, weights="random", depths="all"))
    dims = list(encoder.dims.items())
    assert (dims[0], dims[-1]) == (first, last)


def test_a_network_of_another_family_is_cut_too() -> None:
    name = "timm:mobilenetv3_small_050"
    full = build_encoder(EncoderConfig(name, weights="random", depths="all"))
    patches = random_patches(2, 64)
    sizes = []
    with torch.inference_mode():
        expected = full(patches)
        for depth in full.depths:
            cut = build_encoder(EncoderConfig(name, weights="random", depths=[depth]))
            torch.testing.assert_close(cut(patches)[depth], expected[depth], rtol=1e-5, atol=1e-6)
            sizes.append(sum(parameter.numel() for parameter in cut.parameters()))
    assert sizes == sorted(set(sizes))
    counted = [row.macs for row in count_costs(full.entry, 64)]
    assert counted == sorted(set(counted))
    with pytest.raises(EncoderError, match="feature0, feature1"):
        build_encoder(EncoderConfig(name, weights="random", depths=["layer1"]))


def test_a_network_of_one_size_names_it() -> None:
    config = EncoderConfig("timm:swin_tiny_patch4_window7_224", weights="random")
    with pytest.raises(EncoderError, match="exactly 224 px; set input_px to 224"):
        build_encoder(config)(random_patches(1, 64))


def test_the_listing_is_json_and_a_table_of_every_entry(described: list[dict[str, Any]]) -> None:
    described = json.loads(json.dumps(described))
    assert [row["name"] for row in described] == list(CATALOGUE)
    resnet = described[0]
    assert resnet["depths"][1] == {
        "depth": "layer1",
        "dim": 64,
        "parameters": 157_504,
        "macs": 580_435_968,
    }
    text = catalogue_text(described)
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert set(CATALOGUE) <= set(lines)
    assert "package:efficientnet" in lines["tf_efficientnet_lite0"]
    assert "1024" in lines["uni"]
