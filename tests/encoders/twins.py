"""Structural twins of the foundation models: the published layout at tiny width.

No weights can be had here. Each twin is built from arguments that are written down apart from the
catalogue's (publishers' cards), by the publisher's own library: transformers where it is published
there, timm's class otherwise. Its state dict, under the published names, must load strictly, and
every depth must equal what the twin computes.
"""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from timm.layers.mlp import SwiGLUPacked
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from typing_extensions import override

from histotransfer_pl.encoders.config import EncoderConfig
from tests.encoders.test_truncation import recorded

State = dict[str, Tensor]
Twin = tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]
BLOCKS = 3
GATED: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
TINY: dict[str, Any] = {"embed_dim": 24, "depth": BLOCKS, "num_heads": 3}

# Arguments of timm's class as the cards give them; width, depth and heads are the twin's.
PUBLISHED: dict[str, dict[str, Any]] = {
    "uni2_h": GATED
    | {"patch_size": 14, "mlp_ratio": 2.66667 * 2, "init_values": 1e-5, "reg_tokens": 8}
    | {"no_embed_class": True},
    "virchow": GATED | {"patch_size": 14, "mlp_ratio": 5.3375, "init_values": 1e-5},
    "virchow2": GATED
    | {"patch_size": 14, "mlp_ratio": 5.3375, "init_values": 1e-5, "reg_tokens": 4},
    "h_optimus_0": GATED
    | {"patch_size": 14, "mlp_ratio": 5.33334, "init_values": 1e-5, "reg_tokens": 4}
    | {"no_embed_class": True},
    "h0_mini": GATED
    | {"patch_size": 14, "mlp_ratio": 5.33334, "init_values": 1e-5, "reg_tokens": 4}
    | {"no_embed_class": True},
    "prov_gigapath": GATED | {"patch_size": 16, "mlp_ratio": 5.33334, "init_values": 1e-5},
    "gpfm": {"patch_size": 14, "init_values": 1e-5},
    "kaiko_vits16": {"patch_size": 16},
    "kaiko_vitb8": {"patch_size": 8},
    "lunit_vit_small8_dino": {"patch_size": 8},
    "dinov2_vits14": {"patch_size": 14, "init_values": 1e-5},
    "conch": {"patch_size": 16},
}
PUBLISHED["h_optimus_1"] = PUBLISHED["h_optimus_0"]
POOLED = {"virchow", "virchow2", "h0_mini", "midnight_12k"}
"""Published vector: class token and mean of the patch tokens."""


def pooled(name: str, tokens: Tensor, prefix: int) -> Tensor:
    token = tokens[:, 0]
    return torch.cat([token, tokens[:, prefix:].mean(1)], 1) if name in POOLED else token


def randomised(network: nn.Module) -> nn.Module:
    """Values of the size of trained ones everywhere, also in biases, scales and positions."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point() and "num_batches" not in name:
                noise = torch.randn(value.shape, generator=generator) * 0.3
                is_scale = name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "var"))
                value.copy_(noise.abs() + 0.7 if is_scale else noise)
    return network.eval()


def timm_twin(name: str, images: Tensor) -> Twin:
    side = images.shape[-1]
    arguments = TINY | PUBLISHED[name] | {"img_size": side, "num_classes": 0, "global_pool": ""}
    network = randomised(VisionTransformer(**arguments))
    places = {f"block{i}": f"blocks.{i}" for i in range(BLOCKS)} | {"norm": "norm"}
    with torch.no_grad(), recorded(network, places) as outputs:
        network(images)
    prefix = 1 + int(PUBLISHED[name].get("reg_tokens", 0))
    expected = {depth: pooled(name, tokens, prefix) for depth, tokens in outputs.items()}
    return network, network.state_dict(), expected


def transformers_twin(name: str, images: Tensor, model: Any, folder: Path) -> Twin:
    network: Any = randomised(model)
    network.save_pretrained(folder)  # under the names of the hub, which differ from those in memory
    with torch.no_grad():
        found = network(pixel_values=images, output_hidden_states=True)
    prefix = 1 + getattr(network.config, "num_register_tokens", 0)
    expected = {
        f"block{i}": pooled(name, found.hidden_states[i + 1], prefix) for i in range(BLOCKS)
    }
    expected["norm"] = pooled(name, found.last_hidden_state, prefix)
    return network, safetensors.torch.load_file(folder / "model.safetensors"), expected


def dinov2_twin(name: str, images: Tensor, folder: Path) -> Twin:
    patch = 16 if name == "phikon_v2" else 14
    arguments: dict[str, Any] = {
        "hidden_size": 24,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 3,
        "image_size": images.shape[-1],
        "patch_size": patch,
    }
    model: Any
    if name in ("hibou_b", "hibou_l", "kaiko_vitl14"):
        arguments["num_register_tokens"] = 4
        model = transformers.Dinov2WithRegistersModel
        return transformers_twin(
            name, images, model(transformers.Dinov2WithRegistersConfig(**arguments)), folder
        )
    config = transformers.Dinov2Config(**arguments, use_swiglu_ffn=name == "midnight_12k")
    model = transformers.Dinov2Model
    return transformers_twin(name, images, model(config), folder)


def clip_twin(name: str, images: Tensor, folder: Path) -> Twin:
    vision = {
        "hidden_size": 24,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "image_size": images.shape[-1],
        "patch_size": 32,
    }
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)
    whole: Any = randomised(transformers.CLIPModel(config))
    whole.save_pretrained(folder)
    with torch.no_grad():
        found = whole.vision_model(pixel_values=images, output_hidden_states=True)
        projected = whole.visual_projection(found.pooler_output)
    expected = {f"block{i}": found.hidden_states[i + 1][:, 0] for i in range(BLOCKS)}
    expected |= {"norm": found.pooler_output, "projection": projected}
    return whole, safetensors.torch.load_file(folder / "model.safetensors"), expected


class Stem(nn.Module):
    """The stem of CTransPath, from its paper: two 3 x 3 convolutions of stride 2, one 1 x 1."""

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self.grid_size = (56, 56)
        self.proj = nn.Sequential(
            nn.Conv2d(3, 3, 3, 2, 1, bias=False),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Conv2d(3, 6, 3, 2, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 24, 1),
        )
        self.norm = nn.LayerNorm(24)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).flatten(2).transpose(1, 2)).unflatten(1, (56, 56))  # type: ignore[no-any-return]


def conch_twin(
    network: Any, images: Tensor, expected: dict[str, Tensor]
) -> tuple[State, dict[str, Tensor]]:
    """The vector of CONCH written out: one query, eight heads of 64 numbers, all tokens, a norm."""
    shapes = {"query": (1, 512), "ln_q.weight": (512,), "ln_q.bias": (512,), "ln_k.weight": (24,)}
    shapes |= {"ln_k.bias": (24,), "attn.q_proj_weight": (512, 512), "attn.in_proj_bias": (1536,)}
    shapes |= {"attn.k_proj_weight": (512, 24), "attn.v_proj_weight": (512, 24)}
    shapes |= {"attn.out_proj.weight": (512, 512), "attn.out_proj.bias": (512,)}
    draw = torch.Generator().manual_seed(1)
    pool = {name: torch.randn(shape, generator=draw) * 0.2 for name, shape in shapes.items()}
    norm = {name: torch.randn(512, generator=draw) for name in ("weight", "bias")}
    with torch.no_grad():
        tokens = network.forward_features(images)  # (B, T, 24)
        tokens = layer_norm(tokens, (24,), pool["ln_k.weight"], pool["ln_k.bias"])
        query = layer_norm(pool["query"], (512,), pool["ln_q.weight"], pool["ln_q.bias"])
        q, k, v = (
            (x @ pool[f"attn.{name}_proj_weight"].T + bias).unflatten(-1, (8, 64))
            for name, x, bias in zip(
                "qkv", (query, tokens, tokens), pool["attn.in_proj_bias"].chunk(3), strict=True
            )
        )
        weights = (torch.einsum("hd,bthd->bht", q[0], k) / 8).softmax(-1)
        pooled = torch.einsum("bht,bthd->bhd", weights, v).flatten(1)  # (B, 512)
        pooled = pooled @ pool["attn.out_proj.weight"].T + pool["attn.out_proj.bias"]
        expected["projection"] = layer_norm(pooled, (512,), norm["weight"], norm["bias"])
    state = {f"visual.trunk.{key}": value for key, value in network.state_dict().items()}
    state |= {f"visual.attn_pool_contrast.{key}": value for key, value in pool.items()}
    state |= {f"visual.ln_contrast.{key}": value for key, value in norm.items()}
    for left_out in ("text.cls_emb", "visual.proj_contrast", "visual.attn_pool_caption.query"):
        state[left_out] = torch.zeros(2)
    return state | {"logit_scale": torch.zeros(())}, expected


def swin_twin(images: Tensor) -> Twin:
    network = randomised(
        SwinTransformer(embed_dim=24, depths=(2, 2, 6, 2), num_classes=0, embed_layer=Stem)
    )
    places = {"stem": "patch_embed", "norm": "norm"} | {
        f"stage{i}": f"layers.{i}" for i in range(4)
    }
    with torch.no_grad(), recorded(network, places) as outputs:
        network(images)
    old: State = {"layers.0.blocks.1.attn_mask": torch.zeros(1), "head.weight": torch.zeros(2, 2)}
    for key, value in network.state_dict().items():  # as timm 0.5 named them
        layer = key.split(".")[1] if ".downsample." in key else ""
        old[key.replace(f"layers.{layer}.", f"layers.{int(layer) - 1}.") if layer else key] = value
    old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    return network, old, {depth: output.mean((1, 2)) for depth, output in outputs.items()}


def authors_dinov2(state: State) -> State:
    """transformers' names of DINOv2 as the authors' own code calls them, in chunks of blocks."""
    renamed: State = {}
    for key, value in state.items():
        new = key.removeprefix("embeddings.").replace("position_embeddings", "pos_embed")
        new = new.replace("patch_embeddings.projection", "patch_embed.proj")
        new = new.replace("layernorm", "norm").replace("encoder.layer.", "blocks.0.")
        new = new.replace("attention.output.dense", "attn.proj")
        for number in "12":
            new = new.replace(f"layer_scale{number}.lambda1", f"ls{number}.gamma")
        if "attention.attention.query" in new:
            parts = [state[key.replace("query", part)] for part in ("query", "key", "value")]
            renamed[new.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
        elif "attention.attention." not in new:
            renamed[new] = value
    return renamed


def twin(name: str, images: Tensor, folder: Path) -> tuple[State, dict[str, Tensor]]:
    """State dict in the published layout, and what the twin gives at each depth."""
    if name in PUBLISHED:
        network, state, expected = timm_twin(name, images)
        return conch_twin(network, images, expected) if name == "conch" else (state, expected)
    if name == "plip":
        _, state, expected = clip_twin(name, images, folder)
    elif name == "ctranspath":
        _, state, expected = swin_twin(images)
    else:
        _, state, expected = dinov2_twin(name, images, folder)
    return (authors_dinov2(state) if name == "kaiko_vitl14" else state), expected


TWINS = [
    *PUBLISHED,
    *("phikon_v2", "midnight_12k", "hibou_b", "hibou_l", "kaiko_vitl14", "plip", "ctranspath"),
]


def tiny_config(name: str, **settings: Any) -> EncoderConfig:
    patch = {"plip": 32, "phikon_v2": 16}.get(name, PUBLISHED.get(name, {}).get("patch_size", 14))
    arguments = {"embed_dim": 24} if name == "ctranspath" else TINY | {"img_size": 4 * patch}
    arguments |= {"num_classes": 8} if name == "plip" else {}
    arguments |= settings.pop("model_args", {})
    return EncoderConfig(name, model_args=arguments, **{"depths": "all"} | settings)
