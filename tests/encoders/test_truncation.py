"""A truncated encoder is the prefix of the full network: values, parameters, compute."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.utils.flop_counter import FlopCounterMode

from histotransfer_pl.encoders.batchnorm import reestimate_batchnorm
from histotransfer_pl.encoders.catalogue import CATALOGUE
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.cost import count_costs, count_parameters
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.encoders.entry import EncoderEntry
from histotransfer_pl.encoders.listing import describe
from histotransfer_pl.encoders.networks import build_trunk
from histotransfer_pl.errors import EncoderError
from histotransfer_pl.records.encoder import WeightsRef

# One entry for each distinct network: the others differ in weights and normalisation only.
NETWORKS = [
    "resnet18",
    "resnet34",
    "resnet50",
    "densenet121",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "mobilenetv2_100",
    "convnext_tiny",
    "vit_small_dino",
    "phikon",
    "uni",
    pytest.param("uni-whole", marks=pytest.mark.slow),
]

# From the table of HistoTransfer's truncations (derived by arithmetic, papers.md).
PAPER_PARAMETERS = {
    "resnet18": {
        "stem": 9_536,
        "layer1": 157_504,
        "layer2": 683_072,
        "layer3": 2_782_784,
        "layer4": 11_176_512,
    },
    "densenet121": {
        "stem": 9_536,
        "denseblock1": 344_576,
        "transition1": 377_856,
        "denseblock2": 1_297_536,
        "transition2": 1_429_632,
        "denseblock3": 4_267_392,
        "transition3": 4_793_728,
        "denseblock4": 6_951_808,
        "norm5": 6_953_856,
    },
}


def random_patches(count: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def timm_place(entry: EncoderEntry, depth: str) -> str:
    """The module of timm's network whose output a depth is, written down independently."""
    index = depth.lstrip("abcdefghijklmnopqrstuvwxyz")
    if entry.architecture.startswith("resnet"):
        return "maxpool" if depth == "stem" else depth
    if entry.architecture.startswith("densenet"):
        return {"stem": "features.pool0", "norm5": "features.denseblock4"}.get(
            depth, f"features.{depth}"
        )
    if entry.architecture.startswith("convnext"):
        return {"stem": "stem", "norm": "norm_pre"}.get(depth, f"stages.{index}")
    if entry.architecture.startswith("vit"):
        return "norm" if depth == "norm" else f"blocks.{index}"
    return {"stem": "bn1", "head": "bn2"}.get(depth, f"blocks.{index}")


def reference_vector(network: Any, entry: EncoderEntry, depth: str, output: Tensor) -> Tensor:
    if entry.architecture.startswith("vit"):
        return output[:, 0]
    if (entry.architecture, depth) == ("densenet121", "norm5"):  # the norm alone, no ReLU
        norm = network.features.norm5
        output = batch_norm(
            output, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
        )
    if (entry.architecture, depth) == ("convnext_tiny", "norm"):
        return network.forward_head(output, pre_logits=True)  # type: ignore[no-any-return]
    return output.flatten(2).mean(2)


@contextmanager
def recorded(network: nn.Module, places: dict[str, str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of submodules while the network runs as timm runs it."""
    outputs: dict[str, Tensor] = {}

    def keep(depth: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, output: outputs.update({depth: output.clone()})

    handles = [
        network.get_submodule(place).register_forward_hook(keep(depth))
        for depth, place in places.items()
    ]
    yield outputs
    for handle in handles:
        handle.remove()


def random_encoder(name: str) -> PatchEncoder:
    """An encoder of every depth with random weights; of the large ViTs four blocks are enough."""
    blocks = {"phikon": 4, "uni": 4}.get(name)
    entry = CATALOGUE[name.removesuffix("-whole")]
    if blocks is not None:
        entry = dataclasses.replace(entry, options={**entry.options, "depth": blocks})
    trunk = build_trunk(entry, seed=0)
    weights = WeightsRef("random", seed=0)
    encoder = PatchEncoder(name, entry, trunk, depths=trunk.depths, weights=weights).eval()
    # keeps the activations of deep random networks near 1
    reestimate_batchnorm(encoder, [random_patches(4, 64, seed=1)])
    # rounding, which random ResNets amplify, isn't the question here
    return encoder.double() if entry.architecture.startswith("resnet") else encoder


@pytest.mark.parametrize("name", NETWORKS)
def test_every_depth_equals_the_prefix_of_the_full_network(name: str) -> None:
    patches = random_patches(3, 64)
    encoder = random_encoder(name)
    network: Any = encoder.network
    places = {depth: timm_place(encoder.entry, depth) for depth in encoder.depths}
    with torch.inference_mode():
        with recorded(network, places) as outputs:
            network(encoder.normalise(patches))
        expected = {
            depth: reference_vector(network, encoder.entry, depth, outputs[depth])
            for depth in places
        }
        for depth in reversed(list(places)):
            encoder.cut_after(depth)
            scale = float(expected[depth].abs().max())
            assert scale > 1e-3, "nothing to compare"
            for part in (slice(0, 3), slice(0, 1), slice(1, 3)):
                features = encoder(patches[part])[depth]
                torch.testing.assert_close(
                    features, expected[depth][part], rtol=0, atol=1e-5 * max(scale, 1.0)
                )


@pytest.mark.parametrize("name", PAPER_PARAMETERS)
def test_cumulative_parameters_are_those_of_the_papers_table(name: str) -> None:
    counted = {row["depth"]: row["parameters"] for row in describe(CATALOGUE[name])["depths"]}
    assert counted == PAPER_PARAMETERS[name]


def test_a_built_encoder_keeps_only_the_parameters_up_to_its_depth() -> None:
    for depth, parameters in PAPER_PARAMETERS["resnet18"].items():
        config = EncoderConfig("resnet18", weights="random", depths=[depth])
        assert count_parameters(build_encoder(config)) == parameters


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18", torchvision.models.ResNet18_Weights.IMAGENET1K_V1),
        ("resnet50", torchvision.models.ResNet50_Weights.IMAGENET1K_V1),
        ("densenet121", torchvision.models.DenseNet121_Weights.IMAGENET1K_V1),
        ("efficientnet_b0", torchvision.models.EfficientNet_B0_Weights.IMAGENET1K_V1),
        ("mobilenetv2_100", torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1),
        ("convnext_tiny", torchvision.models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1),
    ],
)
def test_macs_and_parameters_are_those_torchvision_publishes(name: str, weights: Any) -> None:
    full = describe(CATALOGUE[name])["depths"][-1]  # at 224 px
    classifier = full["dim"] * 1000
    assert full["parameters"] + classifier + 1000 == weights.meta["num_params"]
    assert (full["macs"] + classifier) / 1e9 == pytest.approx(weights.meta["_ops"], abs=0.006)


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("resnet18", {"layer1": 0.32, "layer2": 0.55, "layer3": 0.77, "layer4": 1.0}),
        ("densenet121", {"denseblock1": 0.41, "denseblock2": 0.70, "denseblock3": 0.93}),
    ],
)
def test_compute_behind_the_cut_is_not_run(name: str, shares: dict[str, float]) -> None:
    entry = CATALOGUE[name]
    at_224 = {row["depth"]: row["macs"] for row in describe(entry)["depths"]}
    at_64 = {row.depth: row.macs for row in count_costs(entry, 64)}
    encoder = build_encoder(EncoderConfig(name, weights="random", depths="all"))
    patches = random_patches(1, 64)
    for depth, share in reversed(shares.items()):
        encoder.cut_after(depth)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            encoder(patches)
        assert counter.get_total_flops() == 2 * at_64[depth]
        assert at_224[depth] / list(at_224.values())[-1] == pytest.approx(share, abs=0.006)


def test_an_uncut_trunk_stops_at_the_deepest_depth_asked_for() -> None:
    encoder = build_encoder(EncoderConfig("resnet18", weights="random", depths="all"))
    images = encoder.normalise(random_patches(1, 64))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        encoder.trunk(images, ["layer2", "stem"])
    layer2 = {row.depth: row.macs for row in count_costs(encoder.entry, 64)}["layer2"]
    assert counter.get_total_flops() == 2 * layer2


def test_all_depths_at_once_cost_as_much_as_the_deepest_alone() -> None:
    totals = []
    for depths in ("all", "last"):
        encoder = build_encoder(EncoderConfig("resnet18", weights="random", depths=depths))
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            encoder(random_patches(1, 64))
        totals.append(counter.get_total_flops())
    assert totals[0] == totals[1]


@pytest.mark.parametrize("depth", ["denseblock1", "layer5", "block0", ""])
def test_an_unknown_depth_lists_the_valid_ones(depth: str) -> None:
    with pytest.raises(EncoderError, match="stem, layer1, layer2, layer3, layer4"):
        build_encoder(EncoderConfig("resnet18", weights="random", depths=[depth]))


def test_depths_come_in_the_order_of_the_network_and_once() -> None:
    config = EncoderConfig("resnet18", weights="random", depths=["layer3", "stem", "layer3"])
    encoder = build_encoder(config)
    assert encoder.depths == ["stem", "layer3"]
    assert list(encoder(random_patches(1, 32))) == ["stem", "layer3"]
    assert encoder.all_depths == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert list(encoder.dims) == ["stem", "layer3"]


def test_no_depths_is_an_error() -> None:
    with pytest.raises(EncoderError, match="no depths given"):
        build_encoder(EncoderConfig("resnet18", weights="random", depths=[]))


def test_densenet_features_are_not_clipped_by_a_relu() -> None:
    encoder = build_encoder(EncoderConfig("densenet121", weights="random", depths="last"))
    patches = random_patches(2, 64)
    with torch.inference_mode():
        maps = encoder.feature_maps(patches)["norm5"]
    assert float(maps.min()) < 0


@pytest.mark.parametrize("pooling", ["token", "mean", "token_and_mean"])
def test_a_vit_is_pooled_by_class_token_or_patch_mean(pooling: Any) -> None:
    config = EncoderConfig("vit_small_dino", weights="random", depths="all", pooling=pooling)
    encoder = build_encoder(config)
    assert encoder.provenance["pooling"] == pooling
    patches = random_patches(2, 48)
    network: Any = encoder.network
    with torch.inference_mode():
        tokens = network.forward_features(encoder.normalise(patches))
        features = encoder(patches)["norm"]
        maps = encoder.feature_maps(patches)["norm"]
    token, mean = tokens[:, 0], tokens[:, 1:].mean(1)
    expected = {"token": token, "mean": mean, "token_and_mean": torch.cat([token, mean], 1)}
    torch.testing.assert_close(features, expected[pooling])
    assert encoder.dims["norm"] == encoder.dims["block0"] == expected[pooling].shape[1]
    assert maps.shape == (2, 384, 3, 3)
    torch.testing.assert_close(maps[1, :, 2, 0], tokens[1, 1 + 6])


def test_a_cnn_has_no_class_token() -> None:
    with pytest.raises(EncoderError, match="pooling 'token' is for ViTs"):
        build_encoder(EncoderConfig("resnet18", weights="random", pooling="token"))


@pytest.mark.parametrize("pooling", ["token", "token_and_mean"])
def test_a_vit_without_a_class_token_is_pooled_by_its_mean(pooling: Any) -> None:
    without = {"class_token": False, "global_pool": "avg", "depth": 2, "img_size": 32}
    config = EncoderConfig("vit_small_dino", weights="random", model_args=without, pooling=pooling)
    with pytest.raises(EncoderError, match="this ViT has no class token: set pooling to `mean`"):
        build_encoder(config)
    assert build_encoder(dataclasses.replace(config, pooling="mean")).dims == {"norm": 384}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_small_dino", {}),
        ("vit_small_dino", {"mlp_layer": "SwiGLUPacked", "act_layer": "silu", "reg_tokens": 3}),
        ("dinov3_vits16", {}),
    ],
)
def test_hidden_activations_of_a_block_are_what_its_last_linear_layer_takes(
    name: str, arguments: dict[str, Any]
) -> None:
    tiny = {"depth": 3, "embed_dim": 32, "num_heads": 2, "img_size": 48} | arguments
    depths = ["block1", "block1.mlp", "block0.mlp"]
    config = EncoderConfig(name, weights="random", depths=depths, model_args=tiny, pooling="mean")
    encoder = build_encoder(config)
    network: Any = encoder.network
    patches = random_patches(2, 48)
    places = {"0": "blocks.0.mlp.fc2", "1": "blocks.1.mlp.fc2"}
    with torch.no_grad(), recorded(network, places) as outputs:
        features = encoder(patches)
    assert encoder.depths == ["block0.mlp", "block1.mlp", "block1"]
    assert list(features) == encoder.depths
    prefix = network.num_prefix_tokens
    for index in ("0", "1"):
        last = network.get_submodule(f"blocks.{index}.mlp.fc2")
        hidden = features[f"block{index}.mlp"]
        # the layer is linear: the mean of what it gives is what it makes of the mean
        expected = outputs[index][:, prefix:].mean(1)
        torch.testing.assert_close(last(hidden).detach(), expected, rtol=1e-4, atol=1e-5)
        assert hidden.shape[1] == last.in_features == encoder.dims[f"block{index}.mlp"]
    assert encoder.all_depths == ["block0", "block1", "block2", "norm"]
    assert len(encoder.trunk.stages) == 2, "cut behind the block of the deepest depth"


def test_a_depth_inside_a_block_that_is_not_there_is_unknown() -> None:
    with pytest.raises(EncoderError, match=r"depth 'norm.mlp' does not exist"):
        build_encoder(EncoderConfig("vit_small_dino", weights="random", depths=["norm.mlp"]))
    with pytest.raises(EncoderError, match=r"depth 'layer1.mlp' does not exist"):
        build_encoder(EncoderConfig("resnet18", weights="random", depths=["layer1.mlp"]))
