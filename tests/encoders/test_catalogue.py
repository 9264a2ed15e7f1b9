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
from histotransfer_pl.encoders.networks import build_trunk
from histotransfer_pl.errors import EncoderError
from tests.encoders.test_truncation import random_patches

FROM_TIMM = [
    name
    for name, entry in CATALOGUE.items()
    if entry.source.hub_repo and entry.source.hub_repo.startswith("timm/")
]


def test_the_networks_of_both_papers_their_time_and_today_are_there() -> None:
    wanted = """
        resnet18 resnet34 resnet50 densenet121 efficientnet_b0 tf_efficientnet_lite0
        mobilenetv2_100 convnext_tiny vit_small_dino kimianet ciga_resnet18 mormont_resnet50
        mormont_densenet121 lunit_vit_small_dino lunit_resnet50_swav lunit_resnet50_bt
        lunit_resnet50_moco phikon uni
        dinov2_vits14 dinov2_vitb14 dinov2_vitl14 dinov3_vits16 dinov3_vitb16 dinov3_vitl16
        convnext_base uni2_h virchow virchow2 h_optimus_0 h_optimus_1 h0_mini prov_gigapath
        phikon_v2 hibou_b hibou_l midnight_12k conch ctranspath gpfm kaiko_vits8 kaiko_vits16
        kaiko_vitb8 kaiko_vitb16 kaiko_vitl14 lunit_vit_small8_dino plip
    """
    assert set(wanted.split()) == set(CATALOGUE)


# Millions of parameters: of the vision tower, without a classifier, as published or as counted by
# people who have the weights (LazySlide's register of models).
PUBLISHED_MILLIONS = {
    "uni2_h": "681.4",
    "virchow": "631.2",
    "virchow2": "631.2",
    "h0_mini": "85.7",
    "h_optimus_0": "1134.8",
    "prov_gigapath": "1135.0",
    "phikon": "85.8",
    "phikon_v2": "303.4",
    "hibou_b": "85.7",
    "uni": "303.4",
    "ctranspath": "27.5",
    "dinov2_vits14": "22.1",
    "dinov2_vitb14": "86.6",
    "dinov2_vitl14": "304.4",
    "dinov3_vits16": "21.6",
    "dinov3_vitb16": "85.6",
    "dinov3_vitl16": "303.1",
    "convnext_base": "87.6",
}
WIDTHS = {
    "uni2_h": 1536,
    "virchow": 2560,
    "virchow2": 2560,
    "h_optimus_0": 1536,
    "h_optimus_1": 1536,
    "h0_mini": 1536,
    "prov_gigapath": 1536,
    "phikon_v2": 1024,
    "hibou_b": 768,
    "hibou_l": 1024,
    "midnight_12k": 3072,
    "ctranspath": 768,
    "gpfm": 1024,
    "kaiko_vits8": 384,
    "kaiko_vitl14": 1024,
    "lunit_vit_small8_dino": 384,
}


@pytest.mark.parametrize("name", FROM_TIMM)
def test_normalisation_licence_and_classifier_are_those_timm_states(name: str) -> None:
    entry = CATALOGUE[name]
    assert entry.source.hub_repo is not None
    stated = timm.get_pretrained_cfg(entry.source.hub_repo.removeprefix("timm/"))
    assert stated is not None
    assert (entry.mean, entry.std) == (stated.mean, stated.std)
    assert timm.is_model(entry.architecture)
    assert entry.native_px == stated.input_size[-1]
    assert entry.licence == stated.license
    assert f"{stated.classifier}." in entry.keys.drop


@pytest.fixture(scope="module")
def described() -> list[dict[str, Any]]:
    return describe_catalogue()


def test_parameters_and_widths_are_the_published_ones(described: list[dict[str, Any]]) -> None:
    last = {row["name"]: row["depths"][-1] for row in described}
    for name, millions in PUBLISHED_MILLIONS.items():
        classifier = 1024 * 1000 / 1e6 if name == "convnext_base" else 0.0
        found = last[name]["parameters"] / 1e6 + classifier
        assert f"{found:.1f}" == millions or name == "convnext_base", name
    assert {name: last[name]["dim"] for name in WIDTHS} == WIDTHS


@pytest.mark.parametrize("name", ["kimianet", "lunit_resnet50_swav", "lunit_vit_small_dino"])
def test_entries_give_vectors_of_the_counted_dims(
    name: str, described: list[dict[str, Any]]
) -> None:
    encoder = build_encoder(EncoderConfig(name, weights="random", depths="all"))
    counted = next(row["depths"] for row in described if row["name"] == name)
    with torch.inference_mode():
        features = encoder(random_patches(2, 64))
    assert {depth: tuple(vector.shape) for depth, vector in features.items()} == {
        row["depth"]: (2, row["dim"]) for row in counted
    }
    assert encoder.dims == {row["depth"]: row["dim"] for row in counted}


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


@pytest.mark.parametrize("name", ["vit_small_dino", "dinov3_vits16"])
def test_equal_blocks_are_counted_once_and_cost_what_each_costs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = count_costs(CATALOGUE[name], 64)
    trunk = type(build_trunk(CATALOGUE[name]))
    # asked one by one
    monkeypatch.setattr(trunk, "equal_stages", property(lambda self: (), lambda self, _: None))
    assert count_costs(CATALOGUE[name], 64) == quick


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
    assert "package:effi" in lines["tf_efficientnet_lite0"]
    assert "1024" in lines["uni"]
    narrow = catalogue_text(described, width=80)
    names = {line.split("│")[1].strip() for line in narrow.splitlines() if "│" in line}
    assert set(CATALOGUE) <= names, "names are what one copies: none is folded or cut"
