"""Checkpoints of the published layouts load through their entries, value by value.

None of these files can be had here: the layouts are written from random networks, by rules that
are written down apart from those of the package.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from histotransfer_pl.encoders.catalogue import CATALOGUE
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.encoders.keys import KeyMap
from histotransfer_pl.encoders.timm_models import build_network
from histotransfer_pl.errors import WeightsError

State = dict[str, Tensor]


def random_state(name: str) -> State:
    """A state dict in timm's layout; whole numbers stay 0."""
    with torch.device("meta"):
        shapes = build_network(CATALOGUE[name]).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(value.shape, generator=generator)
        if value.is_floating_point()
        else torch.zeros(value.shape, dtype=value.dtype)
        for key, value in shapes.items()
    }


def old_names(key: str) -> str:
    """Keys of DenseNets before 2019: denselayer1.norm.1.weight."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key)


def kimianet(state: State) -> State:
    # DataParallel(fully_connected(Sequential(features, pool))) of the authors' notebook
    features = {f"module.model.0.{k.removeprefix('features.')}": v for k, v in state.items()}
    return features | {
        "module.fc_4.weight": torch.rand(30, 1024),
        "module.fc_4.bias": torch.rand(30),
    }


def ciga(state: State) -> Any:
    # a Lightning checkpoint of SimCLR
    inner = {f"model.resnet.{k}": v for k, v in state.items()}
    inner |= {
        "model.resnet.fc.0.weight": torch.rand(8, 512),
        "model.resnet.fc.0.bias": torch.rand(8),
    }
    return {"epoch": 1000, "global_step": 5, "state_dict": inner}


def mormont_resnet(state: State) -> State:
    inner = {f"features.{k}": v for k, v in state.items()}
    inner |= {"features.fc.weight": torch.rand(1000, 2048), "features.fc.bias": torch.rand(1000)}
    return inner | {
        "heads.0.linear.weight": torch.rand(2, 2048),
        "heads.0.linear.bias": torch.rand(2),
    }


def mormont_densenet(state: State) -> State:
    inner = {f"features.{k}": v for k, v in state.items()}  # features.features.conv0.weight
    inner |= {"features.classifier.weight": torch.rand(1000, 1024)}
    return inner | {"heads.3.linear.weight": torch.rand(9, 1024)}


def huggingface_vit(state: State) -> State:
    """ViTModel of transformers: separate query, key and value; its own names."""
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    }
    inside = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    renamed: State = {"pooler.dense.weight": torch.rand(768, 768)}
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        if not key.startswith("blocks."):
            renamed[names[key] if key in names else f"{names[module]}.{kind}"] = value
            continue
        _, block, place = module.split(".", 2)
        if place != "attn.qkv":
            renamed[f"encoder.layer.{block}.{inside[place]}.{kind}"] = value
            continue
        for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
            renamed[f"encoder.layer.{block}.attention.attention.{name}.{kind}"] = part.clone()
    return renamed


def with_head(head: str, dim: int) -> Callable[[State], State]:
    return lambda state: (
        state | {f"{head}.weight": torch.rand(10, dim), f"{head}.bias": torch.rand(10)}
    )


LAYOUTS: dict[str, tuple[str, Callable[[State], Any]]] = {
    "KimiaNet": ("kimianet", kimianet),
    "KimiaNet, old names": (
        "kimianet",
        lambda state: {old_names(k): v for k, v in kimianet(state).items()},
    ),
    "Ciga": ("ciga_resnet18", ciga),
    "Mormont ResNet50": ("mormont_resnet50", mormont_resnet),
    "Mormont DenseNet121": ("mormont_densenet121", mormont_densenet),
    "Mormont DenseNet121, old names": (
        "mormont_densenet121",
        lambda state: {old_names(k): v for k, v in mormont_densenet(state).items()},
    ),
    "Lunit SwAV": ("lunit_resnet50_swav", dict),
    "Lunit DINO": ("lunit_vit_small_dino", dict),
    "DINO": ("vit_small_dino", dict),
    "old torchvision DenseNet121": (
        "densenet121",
        lambda state: {old_names(k): v for k, v in with_head("classifier", 1024)(state).items()},
    ),
    "timm ResNet18": ("resnet18", with_head("fc", 512)),
    "timm EfficientNet": ("efficientnet_b0", with_head("classifier", 1280)),
    "timm ConvNeXt": ("convnext_tiny", with_head("head.fc", 768)),
    # timm's own layout through an entry with another one
    "timm KimiaNet": ("kimianet", dict),
    "timm Mormont DenseNet121": ("mormont_densenet121", dict),
    "timm Ciga": ("ciga_resnet18", dict),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_of_the_published_layout_loads_exactly(layout: str, tmp_path: Path) -> None:
    name, publish = LAYOUTS[layout]
    state = random_state(name)
    path = tmp_path / "published.pth"
    torch.save(publish(state), path)
    loaded = build_encoder(EncoderConfig(name, weights=str(path))).network.state_dict()
    assert loaded.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(loaded[key], value), key


def test_phikons_layout_is_mapped_exactly() -> None:
    state = random_state("phikon")
    mapped = CATALOGUE["phikon"].keys.apply(huggingface_vit(state))
    assert mapped.keys() == state.keys()
    assert all(torch.equal(mapped[key], value) for key, value in state.items())


def test_torchvisions_state_dicts_are_timms(tmp_path: Path) -> None:
    for name in ("resnet18", "densenet121"):
        state = getattr(torchvision.models, name)().state_dict()
        path = tmp_path / f"{name}.safetensors"
        safetensors.torch.save_file(state, path)
        network = build_encoder(EncoderConfig(name, weights=str(path))).network
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_parts_of_an_incomplete_fusion_are_reported() -> None:
    parts = (".attn.q.", ".attn.k.", ".attn.v.")
    keys = KeyMap(fuse=((parts, ".attn.qkv."),))
    state = {"b.attn.q.weight": torch.rand(2, 2), "b.attn.k.weight": torch.rand(2, 2)}
    assert keys.apply(state).keys() == state.keys()


@pytest.mark.parametrize(
    ("other", "name"),
    [("resnet34", "resnet18"), ("resnet18", "resnet34"), ("densenet121", "resnet18")],
)
@pytest.mark.parametrize("depths", ["last", ["stem"]])
def test_a_checkpoint_of_another_network_is_refused(
    other: str, name: str, depths: Any, tmp_path: Path
) -> None:
    path = tmp_path / "other.safetensors"
    build_encoder(EncoderConfig(other, weights="random")).save(path, {})
    path_plain = tmp_path / "plain.safetensors"  # without the facts that would tell at once
    safetensors.torch.save_file(safetensors.torch.load_file(path), path_plain)
    for file in (path, path_plain):
        with pytest.raises(WeightsError, match=rf"(no checkpoint of {name}|tuned from {other})"):
            build_encoder(EncoderConfig(name, weights=str(file), depths=depths))
