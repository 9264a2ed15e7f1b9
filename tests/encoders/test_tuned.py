"""Tuned encoders as files: who may read them, and that a cut network of any family comes back."""

import os
import stat
from pathlib import Path

import pytest
import torch

from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.errors import WeightsError
from histotransfer_pl.tasks.optimization import freeze_blocks

GENERIC = ["timm:test_byobnet", "timm:test_vit_relpos", "timm:test_mambaout"]
"""Networks of families that have no trunk of their own, so timm cuts them."""


def encoder(name: str, depth: str, weights: str = "random", seed: int = 0) -> PatchEncoder:
    return build_encoder(EncoderConfig(name, weights, seed, depths=[depth], input_px=160))


def patches(n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, 160, 160, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", GENERIC)
def test_a_tuned_and_cut_network_of_any_family_comes_back(name: str, tmp_path: Path) -> None:
    tuned = encoder(name, "feature2", seed=7).train()
    optimizer = torch.optim.SGD(tuned.parameters(), lr=0.1)
    tuned(patches())["feature2"].square().mean().backward()
    optimizer.step()
    path = tmp_path / "encoder.safetensors"
    tuned.eval().save(path, {"tuned_fold": 1})
    back = encoder(name, "feature2", str(path))
    with torch.inference_mode():
        found = back(patches())["feature2"]
        torch.testing.assert_close(found, tuned(patches())["feature2"])
        assert not torch.allclose(found, encoder(name, "feature2", seed=7)(patches())["feature2"])
    assert back.provenance["tuned"]["tuned_fold"] == 1
    with pytest.raises(WeightsError, match="missing"):
        encoder(name, "feature3", str(path))


@pytest.mark.parametrize("name", GENERIC)
def test_what_lies_behind_a_cut_is_what_the_cut_removes(name: str) -> None:
    trunk = encoder(name, "feature3").trunk
    before = set(trunk.network.state_dict())
    behind = trunk.keys_behind("feature1")
    assert set(trunk.network.state_dict()) == before  # asking changes nothing
    trunk.cut_after("feature1")
    assert before - set(trunk.network.state_dict()) == behind
    assert behind


def test_networks_of_any_family_can_be_frozen_by_blocks() -> None:
    frozen = encoder("timm:test_byobnet", "feature3")
    freeze_blocks(frozen, "feature1")
    frozen(patches())["feature3"].square().mean().backward()
    trained = {key for key, p in frozen.network.named_parameters() if p.grad is not None}
    cut = encoder("timm:test_byobnet", "feature1").network.state_dict()
    assert trained
    assert not trained & set(cut)


def test_a_tuned_encoder_is_as_readable_as_the_users_mask_says(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    mask = os.umask(0o027)
    try:
        encoder("timm:test_byobnet", "feature1").save(path, {})
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
