"""PatchEncoder: input, normalisation, resizing, precision, gradients, random weights."""

import copy
import pickle
import random
import socket
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.transforms.v2 import functional

from histotransfer_pl.encoders.batchnorm import reestimate_batchnorm
from histotransfer_pl.encoders.catalogue import find_entry
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.encoders.timm_models import build_network
from histotransfer_pl.errors import EncoderError
from tests.encoders.test_truncation import random_patches


def small_encoder(**settings: Any) -> PatchEncoder:
    return build_encoder(EncoderConfig(**{"name": "resnet18", "weights": "random"} | settings))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("ciga_resnet18", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_the_entrys_normalisation_is_torchvisions(name: str, mean: Any, std: Any) -> None:
    patches = random_patches(2, 40)
    images = small_encoder(name=name).normalise(patches)
    expected = functional.normalize(patches.permute(0, 3, 1, 2) / 255, mean, std)
    torch.testing.assert_close(images, expected)


def test_features_are_those_of_a_torchvision_resnet_with_the_same_weights() -> None:
    encoder = small_encoder(depths=["layer4"])
    reference = torchvision.models.resnet18()
    reference.load_state_dict(encoder.network.state_dict(), strict=False)
    reference.fc = torch.nn.Identity()
    patches = random_patches(2, 64)
    with torch.inference_mode():
        expected = reference.eval()(encoder.normalise(patches))
        torch.testing.assert_close(encoder(patches)["layer4"], expected, rtol=1e-4, atol=1e-4)


def test_patches_are_resized_on_the_way_as_torchvision_does_it() -> None:
    patches = random_patches(2, 50)
    encoder = small_encoder(input_px=96)
    resized = functional.resize(patches.permute(0, 3, 1, 2).float(), [96, 96], antialias=True)
    expected = (resized / 255 - encoder.mean) / encoder.std
    torch.testing.assert_close(encoder.normalise(patches), expected)
    assert encoder.provenance["input_px"] == 96


def test_downsizing_is_antialiased() -> None:
    stripes = torch.zeros(1, 96, 96, 3, dtype=torch.uint8)
    stripes[:, :, ::3] = 255  # a third of the columns is white
    images = small_encoder(input_px=32).normalise(stripes)
    grey = (1 / 3 - 0.485) / 0.229
    torch.testing.assert_close(images[0, 0, :, 4:-4], torch.full((32, 24), grey), atol=0.01, rtol=0)


def test_encoders_can_be_copied_and_sent_to_another_process() -> None:
    encoder = small_encoder(name="vit_small_dino", depths=["block1"])
    patches = random_patches(1, 32)
    for copied in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        torch.testing.assert_close(copied(patches), encoder(patches), rtol=0, atol=0)


def test_the_memory_layout_does_not_change_features() -> None:
    patches = random_patches(2, 64)
    with torch.inference_mode():
        one = small_encoder(channels_last=True)(patches)["layer4"]
        other = small_encoder(channels_last=False)(patches)["layer4"]
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_gives_float32_features_near_the_exact_ones() -> None:
    encoder = small_encoder(depths="all")
    patches = random_patches(2, 64)
    with torch.inference_mode():
        exact = encoder(patches)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = encoder(patches)
    for depth in encoder.depths:
        assert rounded[depth].dtype == torch.float32
        cosine = torch.cosine_similarity(exact[depth], rounded[depth])
        assert float(cosine.min()) > 0.999


def test_gradients_reach_the_stem() -> None:
    encoder = small_encoder(depths=["layer2"])
    encoder(random_patches(1, 64))["layer2"].sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    assert float(encoder.network.get_parameter("conv1.weight").grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_feature_maps_average_to_the_features() -> None:
    encoder = small_encoder(depths="all")
    patches = random_patches(2, 64)
    with torch.inference_mode():
        maps, features = encoder.feature_maps(patches), encoder(patches)
    assert maps["layer1"].shape == (2, 64, 16, 16)
    for depth in encoder.depths:
        torch.testing.assert_close(maps[depth].mean((2, 3)), features[depth])


@pytest.mark.parametrize(
    "patches",
    [
        torch.zeros(1, 64, 64, 3),
        torch.zeros(64, 64, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
    ],
)
def test_patches_of_another_type_or_shape_are_refused(patches: Tensor) -> None:
    with pytest.raises(EncoderError, match=r"takes torch.uint8 \(B, P, P, 3\)"):
        small_encoder()(patches)


def test_a_vit_names_the_sizes_it_can_take() -> None:
    encoder = small_encoder(name="vit_small_dino")
    with pytest.raises(EncoderError, match=r"50 x 50 px.*multiple of 16 px; set input_px to 48"):
        encoder(random_patches(1, 50))
    assert encoder(random_patches(1, 48))["norm"].shape == (1, 384)
    resizing = small_encoder(name="vit_small_dino", input_px=64)
    assert resizing(random_patches(1, 50))["norm"].shape == (1, 384)


def test_a_patch_too_small_for_five_halvings_is_refused() -> None:
    with pytest.raises(EncoderError, match="at least 32 px"):
        small_encoder(name="densenet121")(random_patches(1, 16))


def test_random_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    patches = random_patches(1, 64)
    with torch.inference_mode():
        torch.manual_seed(1)
        one = small_encoder(seed=3)(patches)["layer4"]
        torch.manual_seed(2)
        same = small_encoder(seed=3)(patches)["layer4"]
        other = small_encoder(seed=4)(patches)["layer4"]
    torch.testing.assert_close(one, same, rtol=0, atol=0)
    assert float((one - other).abs().max()) > 0.1


def test_building_leaves_the_global_random_states_alone() -> None:
    before = (torch.get_rng_state(), np.random.get_state()[1].sum(), random.getstate())  # type: ignore[index]  # noqa: NPY002
    small_encoder(seed=7)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].sum()  # type: ignore[index]  # noqa: NPY002
    assert before[2] == random.getstate()


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "dinov3_vits16", "dinov2_vits14"])
def test_residual_branches_of_random_networks_are_switched_on(name: str) -> None:
    state = small_encoder(name=name, depths="all").network.state_dict()
    scales = [v for k, v in state.items() if k.endswith("bn2.weight") or ".gamma" in k]
    assert scales
    assert all(torch.equal(scale, torch.ones_like(scale)) for scale in scales)


@pytest.mark.parametrize("name", ["timm:swin_tiny_patch4_window7_224", "vit_small_dino"])
def test_a_network_built_to_be_loaded_lacks_random_numbers_only(name: str) -> None:
    entry = find_entry(name)
    drawn, bare = build_network(entry, seed=0), build_network(entry)
    bare.load_state_dict(drawn.state_dict())
    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(bare.eval()(images), drawn.eval()(images), rtol=0, atol=0)


def test_nothing_is_asked_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        pytest.fail("an encoder was built and something tried to connect")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for name in ("resnet18", "tf_efficientnet_lite0", "timm:resnet18.a1_in1k"):
        small_encoder(name=name)


def test_store_names_tell_encoders_apart() -> None:
    def name(**settings: Any) -> str:
        return EncoderConfig(**settings).store_name

    assert name(name="resnet18") == "resnet18"
    assert name(name="resnet18", weights="random", seed=0) == "resnet18-random0"
    assert name(name="timm:resnet18.a1_in1k") == "timm_resnet18.a1_in1k"
    assert name(name="hf-hub:owner/net", pooling="mean") == "hf-hub_owner_net-mean"
    assert name(name="resnet18", weights="tuned.safetensors", alias="tuned_fold0") == "tuned_fold0"


def test_provenance_is_plain_json_and_says_where_weights_come_from() -> None:
    encoder = small_encoder(seed=5)
    facts = encoder.provenance
    assert facts["weights"] == "random"
    assert facts["weights_sha256"] == "random:5"
    assert facts["architecture"] == "resnet18"
    assert facts["mean"] == [0.485, 0.456, 0.406]
    assert facts["torch"] == torch.__version__
    assert encoder.name == "resnet18-random5"


def test_batchnorm_statistics_become_those_of_the_patches() -> None:
    encoder = small_encoder(depths=["layer2"])
    batches = [random_patches(4, 48, seed=seed) for seed in (1, 2)]
    stem: Any = encoder.network.get_submodule("conv1")
    with torch.inference_mode():
        outputs = [stem(encoder.normalise(batch)) for batch in batches]
    count = reestimate_batchnorm(encoder, (batch for batch in batches))
    norm: Any = encoder.network.get_submodule("bn1")
    mean = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variance = torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)
    assert count == 10
    assert not any(module.training for module in encoder.modules())
    assert norm.momentum == 0.1


def test_batchnorm_statistics_need_patches() -> None:
    with pytest.raises(EncoderError, match="no batches"):
        reestimate_batchnorm(small_encoder(), [])


def test_a_network_without_batchnorm_has_nothing_to_reestimate() -> None:
    encoder = small_encoder(name="vit_small_dino", depths=["block0"])
    assert reestimate_batchnorm(encoder, [random_patches(1, 32)]) == 0
