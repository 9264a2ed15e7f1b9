"""Low-rank adapters: small files on a named base, merged exactly, for transformers and CNNs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from histotransfer_pl.encoders.adapters import LoraSettings, add_adapters, trainable_share
from histotransfer_pl.encoders.catalogue import CATALOGUE
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.encoders.memory import TensorMemory
from histotransfer_pl.encoders.networks import build_trunk
from histotransfer_pl.errors import EncoderError, WeightsError
from tests.encoders.test_truncation import random_patches

TINY: dict[str, Any] = {"depth": 3, "embed_dim": 48, "num_heads": 3, "img_size": 32}
NETWORKS = {"vit_small_dino": TINY, "dinov3_vits16": TINY, "resnet18": {}, "densenet121": {}}
CUT = {"vit_small_dino": "block1", "dinov3_vits16": "block1", "resnet18": "layer2"}
CUT |= {"densenet121": "denseblock1"}


def encoder(name: str, **settings: Any) -> PatchEncoder:
    usual = {"weights": "random", "depths": [CUT[name]], "model_args": NETWORKS[name]}
    return build_encoder(EncoderConfig(name, **usual | settings))


def train(adapted: PatchEncoder, steps: int = 2) -> None:
    trained = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        (vector,) = adapted(random_patches(2, 32)).values()
        vector.square().mean().backward()
        optimizer.step()


def features(item: PatchEncoder) -> Tensor:
    vector: Tensor
    with torch.inference_mode():
        (vector,) = item.eval()(random_patches(3, 32, seed=5)).values()
    return vector


@pytest.mark.parametrize("name", NETWORKS)
def test_adapters_start_at_the_base_train_alone_and_merge_exactly(
    name: str, tmp_path: Path
) -> None:
    base, adapted = encoder(name), encoder(name)
    adapted.adapt(LoraSettings(rank=2))
    torch.testing.assert_close(features(adapted), features(base), rtol=1e-5, atol=1e-5)
    before = {key: value.clone() for key, value in adapted.network.state_dict().items()}
    train(adapted)
    after = adapted.network.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed
    assert all("lora_" in key for key in changed)
    tuned = features(adapted)
    assert float((tuned - features(base)).abs().max()) > 1e-3
    path = tmp_path / "adapter.safetensors"
    adapted.save(path, {"tuned_fold": 1})
    back = encoder(name, weights=str(path))
    near = 1e-5 * max(1.0, float(tuned.abs().max()))
    torch.testing.assert_close(features(back), tuned, rtol=1e-5, atol=near)
    assert back.network.state_dict().keys() == base.network.state_dict().keys()
    adapted.merge()
    torch.testing.assert_close(features(adapted), tuned, rtol=1e-5, atol=near)


def test_a_file_of_adapters_is_small_and_names_its_base(tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    encoder("vit_small_dino").save(base, {})
    adapted = encoder("vit_small_dino", weights=str(base))
    adapted.adapt(LoraSettings(rank=1))
    adapted.save(tmp_path / "adapter.safetensors", {"tuned_on_patients": ["p1"]})
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("adapter", "base")]
    assert sizes[0] < 0.15 * sizes[1]
    back = encoder("vit_small_dino", weights=str(tmp_path / "adapter.safetensors"))
    assert back.spec.weights.kind == "adapter"
    assert back.spec.weights.base == adapted.spec.weights.sha256
    assert back.provenance["tuned"]["tuned_on_patients"] == ["p1"]
    torch.testing.assert_close(features(back), features(adapted))


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.safetensors"
    for seed in (0, 1):
        encoder("resnet18", seed=seed).save(tmp_path / f"base{seed}.safetensors", {})
    adapted = encoder("resnet18", weights=str(tmp_path / "base0.safetensors"))
    adapted.adapt(LoraSettings(rank=1))
    adapted.save(adapter, {})
    other: dict[str, Any] = {
        "weights": str(adapter),
        "base_weights": str(tmp_path / "base1.safetensors"),
    }
    with pytest.raises(
        WeightsError, match=r"is an adapter of weights .*give base_weights the file"
    ):
        encoder("resnet18", **other)
    (tmp_path / "moved.safetensors").write_bytes((tmp_path / "base0.safetensors").read_bytes())
    (tmp_path / "base0.safetensors").unlink()
    with pytest.raises(WeightsError, match="neither a file nor"):
        encoder("resnet18", weights=str(adapter))
    moved: dict[str, Any] = {
        "weights": str(adapter),
        "base_weights": str(tmp_path / "moved.safetensors"),
    }
    torch.testing.assert_close(features(encoder("resnet18", **moved)), features(adapted))
    with pytest.raises(WeightsError, match="tuned from resnet18 and can't be loaded"):
        encoder("densenet121", **moved)


def test_an_adapter_serves_shallower_depths_and_no_deeper_ones(tmp_path: Path) -> None:
    adapted = encoder("vit_small_dino")
    adapted.adapt(LoraSettings(rank=1))
    path = tmp_path / "adapter.safetensors"
    adapted.save(path, {})
    assert encoder("vit_small_dino", weights=str(path), depths=["block0"]).depths == ["block0"]
    with pytest.raises(WeightsError, match="was tuned up to block1: take no depth behind it"):
        encoder("vit_small_dino", weights=str(path), depths=["block2"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"layers": ["attn.query"]},
            r"'attn.query', which no layer .* end in .*attn.qkv, attn.proj",
        ),
        ({"rank": 0}, r"no layer to adapt with rank 0"),
    ],
)
def test_layers_that_do_not_exist_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        encoder("vit_small_dino").adapt(LoraSettings(**settings))


def test_layers_can_be_chosen_by_name_and_by_block() -> None:
    item = encoder("vit_small_dino")
    item.adapt(LoraSettings(rank=1, layers=["mlp.fc1"]), item.trunk.keys_behind("block0"))
    assert item.adapter is not None
    assert item.adapter["layers"] == ["blocks.1.mlp.fc1"]
    cnn = encoder("resnet18")
    cnn.adapt(LoraSettings(rank=1, layers=["conv1"]))
    assert cnn.adapter is not None
    assert set(cnn.adapter["layers"]) == {"conv1"} | {
        f"layer{i}.{j}.conv1" for i in (1, 2) for j in (0, 1)
    }


def test_of_a_vit_large_less_than_one_percent_trains() -> None:
    with torch.device("meta"):
        network = build_trunk(CATALOGUE["uni"]).network
        add_adapters(network, LoraSettings())
    assert 0.001 < trainable_share(network) < 0.01


def test_the_hidden_activations_of_an_adapted_block_are_still_those_of_its_last_layer() -> None:
    item = encoder("vit_small_dino", depths=["block1.mlp"])
    expected = features(item)
    item.adapt(LoraSettings(rank=1, layers=["fc2"]))
    torch.testing.assert_close(features(item), expected)


def peak_bytes(item: PatchEncoder, patches: Tensor) -> int:
    """Weights, activations, gradients and the state of Adam of one step."""
    trained = [p for p in item.parameters() if p.requires_grad]
    memory = TensorMemory()
    with memory:
        optimizer = torch.optim.Adam(trained)
        for part in patches.split(4):  # as with model.chunk_patches and checkpointing
            (vector,) = item(part).values()
            vector.sum().backward()
        optimizer.step()
    return memory.peak + sum(int(value.nbytes) for value in item.state_dict().values())


def test_a_step_of_adapters_takes_less_than_half_the_memory() -> None:
    arguments = {"depth": 6, "embed_dim": 384, "num_heads": 6, "img_size": 32}
    sizes = []
    for adapt in (False, True):
        item = encoder("vit_small_dino", model_args=arguments, depths=["norm"]).train()
        if adapt:
            item.adapt(LoraSettings())
        sizes.append(peak_bytes(item, random_patches(8, 32)))
    assert sizes[1] < 0.5 * sizes[0]
