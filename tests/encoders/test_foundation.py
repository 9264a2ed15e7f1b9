"""The foundation models of the catalogue against structural twins: strict, and depth by depth."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from timm.models.vision_transformer import VisionTransformer

from histotransfer_pl.encoders.catalogue import CATALOGUE
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.encoders.networks import build_trunk
from histotransfer_pl.errors import EncoderError, WeightsError
from tests.encoders.test_truncation import random_patches
from tests.encoders.twins import PUBLISHED, TWINS, tiny_config, twin


@pytest.mark.parametrize("name", TWINS)
def test_the_published_layout_loads_and_every_depth_is_the_publishers(
    name: str, tmp_path: Path
) -> None:
    config = tiny_config(name, weights=str(tmp_path / "published.pth"))
    side = config.model_args.get("img_size", 224)
    patches = random_patches(2, side)
    entry = CATALOGUE[name]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (entry.mean, entry.std))
    images = (patches.permute(0, 3, 1, 2) / 255 - mean) / std
    state, expected = twin(name, images, tmp_path)
    torch.save(state, tmp_path / "published.pth")
    encoder = build_encoder(config)
    with torch.inference_mode():
        features = encoder(patches)
    assert list(features) == encoder.depths
    assert features.keys() == expected.keys()
    for depth, value in expected.items():
        assert float(value.std()) > 1e-3, "nothing to compare"
        torch.testing.assert_close(features[depth], value, rtol=1e-5, atol=1e-5)
        assert encoder.dims[depth] == value.shape[1]


@pytest.mark.parametrize("name", TWINS)
def test_a_checkpoint_that_lacks_or_adds_a_tensor_is_refused(name: str, tmp_path: Path) -> None:
    config = tiny_config(name, weights=str(tmp_path / "published.pth"))
    side = config.model_args.get("img_size", 224)
    state, _ = twin(name, torch.zeros(1, 3, side, side), tmp_path)
    inside = {"conch": "visual.trunk.", "plip": "vision_model."}.get(name, "")
    torch.save(state | {f"{inside}fc2.weight": torch.zeros(1)}, tmp_path / "published.pth")
    with pytest.raises(WeightsError, match=r"0 missing, 1 unexpected \(fc2.weight\)"):
        build_encoder(config)
    norm = next(key for key in state if "norm" in key and key.startswith(inside or key[0]))
    torch.save({k: v for k, v in state.items() if k != norm}, tmp_path / "published.pth")
    with pytest.raises(WeightsError, match="1 missing"):
        build_encoder(config)


def test_the_real_arguments_are_those_of_the_twins() -> None:
    """What makes a twin tiny is width, depth, heads and size; nothing else may differ."""
    for name, arguments in PUBLISHED.items():
        with torch.device("meta"):
            real: Any = build_trunk(CATALOGUE[name]).network
            mine: Any = VisionTransformer(
                **arguments,
                embed_dim=real.embed_dim,
                depth=len(real.blocks),
                num_heads=real.blocks[0].attn.num_heads,
                img_size=real.patch_embed.img_size[0],
                num_classes=0,
                weight_init="skip",
            )
        trunk = {k: v for k, v in real.state_dict().items() if not k.startswith("head.")}
        shapes = {key: tuple(value.shape) for key, value in trunk.items()}
        assert shapes == {key: tuple(value.shape) for key, value in mine.state_dict().items()}, name
        assert math.isclose(real.norm.eps, mine.norm.eps), name


@pytest.mark.parametrize(
    ("name", "hidden", "heads", "gated"),
    [
        ("phikon_v2", 1024, 16, False),
        ("midnight_12k", 1536, 24, True),
        ("hibou_b", 768, 12, False),
        ("hibou_l", 1024, 16, False),
    ],
)
def test_published_key_lists_of_transformers_fit_the_real_networks(
    name: str, hidden: int, heads: int, gated: bool, tmp_path: Path
) -> None:
    """Names and shapes at full width, one block, under the names of the hub."""
    arguments: dict[str, Any] = {
        "hidden_size": hidden,
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "image_size": 224,
        "patch_size": 16 if name == "phikon_v2" else 14,
    }
    model: Callable[[Any], Any] = transformers.Dinov2Model
    config: Any = transformers.Dinov2Config(**arguments, use_swiglu_ffn=gated)
    if name.startswith("hibou"):
        model = transformers.Dinov2WithRegistersModel
        config = transformers.Dinov2WithRegistersConfig(**arguments, num_register_tokens=4)
    model(config).save_pretrained(tmp_path)
    published = safetensors.torch.load_file(tmp_path / "model.safetensors")
    mapped = CATALOGUE[name].keys.apply(published)
    with torch.device("meta"):
        real = build_trunk(CATALOGUE[name]).network.state_dict()
    wanted = {key: value.shape for key, value in real.items()}
    first = {k: s for k, s in wanted.items() if not k.startswith("blocks.") or ".0." in k[:9]}
    assert {key: value.shape for key, value in mapped.items()} == first


def test_a_file_of_another_model_of_the_family_says_what_differs(tmp_path: Path) -> None:
    images = torch.zeros(1, 3, 56, 56)
    state, _ = twin("virchow2", images, tmp_path)
    path = tmp_path / "virchow2.pth"
    torch.save(state, path)
    with pytest.raises(
        WeightsError, match=r"no checkpoint of virchow: .*1 unexpected \(reg_token\)"
    ):
        build_encoder(tiny_config("virchow", weights=str(path)))
    state, _ = twin("gpfm", torch.zeros(1, 3, 112, 112), tmp_path)
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"another size: set model_args: \{img_size"):
        build_encoder(tiny_config("gpfm", weights=str(path)))


def test_vision_language_models_are_normalised_as_in_their_code() -> None:
    """CLIP's constants, in PLIP's preprocessor and CONCH's open_clip_custom/constants.py."""
    for name in ("plip", "conch"):
        entry = CATALOGUE[name]
        assert entry.mean == (0.48145466, 0.4578275, 0.40821073), name
        assert entry.std == (0.26862954, 0.26130258, 0.27577711), name


def test_a_head_that_does_not_exist_and_a_projection_of_other_vectors_are_refused() -> None:
    with pytest.raises(EncoderError, match=r"can't be built .*'Nothing'.*correct model_args"):
        build_encoder(tiny_config("conch", weights="random", model_args={"head_layer": "Nothing"}))
    both = tiny_config("plip", weights="random", pooling="token_and_mean")
    assert build_encoder(both).depths[-1] == "norm", "the projection takes the class token alone"


def test_a_gated_model_without_a_file_says_where_to_ask_and_fetches_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HISTOTRANSFER_WEIGHTS", raising=False)
    where = (
        r"huggingface.co/MahmoodLab/UNI2-h.*put uni2_h.safetensors or uni2_h.bin.*allow_download"
    )
    with pytest.raises(WeightsError, match=where):
        build_encoder(tiny_config("uni2_h"))
