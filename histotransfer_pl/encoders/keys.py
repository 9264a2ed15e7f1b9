"""How the keys of a published checkpoint become the keys of the network that timm builds."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_OLD_DENSENET = (r"(denselayer\d+)\.(norm|conv)\.(\d)\.", r"\1.\2\3.")
"""Before torchvision 0.3 the layers of a dense layer were called norm.1, conv.1, ..."""


@dataclass(frozen=True)
class KeyMap:
    """Rules on keys, applied in the order of the fields. timm's own keys pass unchanged.

    Attributes:
        rename: Pairs of a regular expression and its replacement, applied one after another.
        drop: Beginnings of the (renamed) keys of classifiers, which no encoder needs.
        fuse: Groups ((query, key, value), joined): tensors whose names contain the parts are
            concatenated in this order along their first axis under the joined name.
        convert: What no rule on keys can say, applied last. It must leave timm's layout alone.
    """

    rename: tuple[tuple[str, str], ...] = ()
    drop: tuple[str, ...] = ()
    fuse: tuple[tuple[tuple[str, ...], str], ...] = ()
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None

    def apply(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state dict with timm's keys and without the classifier."""
        renamed = {self._rename(key): value for key, value in state.items()}
        kept = {key: value for key, value in renamed.items() if not key.startswith(self.drop)}
        for parts, joined in self.fuse:
            kept = _fuse(kept, parts, joined)
        return kept if self.convert is None else self.convert(kept)

    def _rename(self, key: str) -> str:
        for pattern, replacement in self.rename:
            key = re.sub(pattern, replacement, key)
        return key


def _fuse(state: Mapping[str, Tensor], parts: tuple[str, ...], joined: str) -> dict[str, Tensor]:
    fused = dict(state)
    for first in [key for key in state if parts[0] in key]:
        keys = [first.replace(parts[0], part) for part in parts]
        if all(key in fused for key in keys):  # otherwise they stay and are reported as unexpected
            tensors = [fused.pop(key) for key in keys]
            fused[first.replace(parts[0], joined)] = torch.cat(tensors)
    return fused


def _fold_class_position(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2 adds a position to the class token; timm's networks with registers have it added.

    A square number of positions belongs to the patches alone, so that one more is the token's.
    """
    positions, token = state.get("pos_embed"), state.get("cls_token")
    if "reg_token" not in state or positions is None or token is None:
        return state
    count = positions.shape[1] - 1
    if math.isqrt(count) ** 2 != count:
        return state
    return state | {"cls_token": token + positions[:, :1], "pos_embed": positions[:, 1:]}


def _move_swin_downsampling(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Before timm 0.9 a stage of a Swin ended with the halving that begins the next one today."""
    if not any(key.startswith("layers.0.downsample.") for key in state):
        return state

    def moved(key: str) -> str:
        return re.sub(
            r"^layers\.(\d)\.downsample\.",
            lambda found: f"layers.{int(found[1]) + 1}.downsample.",
            key,
        )

    return {moved(key): value for key, value in state.items()}


def _from_transformers_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Class token and positions have no axis of the batch there, and the projection no bias."""
    ranks = {"cls_token": 1, "pos_embed": 2}
    flat = {key for key, rank in ranks.items() if key in state and state[key].ndim == rank}
    shapes = {key: (1, -1, state[key].shape[-1]) for key in flat}
    head = state.get("head.weight")
    bias = {} if head is None or "head.bias" in state else {"head.bias": head.new_zeros(len(head))}
    return state | bias | {key: state[key].reshape(shapes[key]) for key in flat}


def _lite0_rules() -> tuple[tuple[str, str], ...]:
    """Names of the EfficientNet-PyTorch family for tf_efficientnet_lite0 (no squeeze-excite)."""
    rules = [
        (r"^_conv_stem\.", "conv_stem."),
        (r"^_bn0\.", "bn1."),
        (r"^_conv_head\.", "conv_head."),
        (r"^_bn1\.", "bn2."),
        (r"^_fc\.", "classifier."),
    ]
    separable = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw"}
    separable["_bn2"] = "bn2"
    inverted = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw"}
    inverted |= {"_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
    repeats = (1, 2, 2, 3, 3, 4, 1)  # blocks of each stage
    places = [(stage, i) for stage, count in enumerate(repeats) for i in range(count)]
    for block, (stage, i) in enumerate(places):
        for old, new in (separable if block == 0 else inverted).items():
            rules.append((rf"^_blocks\.{block}\.{old}\.", f"blocks.{stage}.{i}.{new}."))
    return tuple(rules)


RESNET = KeyMap(drop=("fc.",))
DENSENET = KeyMap(rename=(_OLD_DENSENET,), drop=("classifier.",))
EFFICIENTNET = KeyMap(drop=("classifier.",))
LITE0 = KeyMap(rename=_lite0_rules(), drop=("classifier.",))
CONVNEXT = KeyMap(drop=("head.fc.",))
VIT = KeyMap(drop=("head.",))

KIMIANET = KeyMap(
    rename=((r"^module\.model\.0\.", "features."), (r"^module\.", ""), _OLD_DENSENET),
    drop=("fc_4.", "classifier."),
)
CIGA = KeyMap(rename=((r"^model\.", ""), (r"^resnet\.", "")), drop=("fc.",))
MORMONT_RESNET = KeyMap(rename=((r"^features\.", ""),), drop=("heads.", "fc."))
MORMONT_DENSENET = KeyMap(
    # only a doubled prefix is stripped: one `features.` is DenseNet's own
    rename=((r"^features\.(?=features\.|classifier\.)", ""), _OLD_DENSENET),
    drop=("heads.", "classifier."),
)
_QUERY_KEY_VALUE = (((".attn.query.", ".attn.key.", ".attn.value."), ".attn.qkv."),)

# the layout of ViTModel in the transformers library
_TRANSFORMERS = (
    (r"^(vit|dinov2)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"^layernorm\.", "norm."),
)
PHIKON = KeyMap(
    rename=(
        *_TRANSFORMERS,
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
    ),
    drop=("pooler.", "head."),
    fuse=_QUERY_KEY_VALUE,
)
TRANSFORMERS_DINOV2 = KeyMap(
    rename=(
        *_TRANSFORMERS,
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.weights_in\.", ".mlp.fc1."),
        (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    ),
    drop=("embeddings.mask_token", "pooler.", "classifier.", "head."),
    fuse=_QUERY_KEY_VALUE,
    convert=_fold_class_position,
)
DINOV2 = KeyMap(
    # the authors' own layout; of large networks the blocks are kept in chunks
    rename=(
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
        (r"^register_tokens$", "reg_token"),
        (r"\.mlp\.w12\.", ".mlp.fc1."),
        (r"\.mlp\.w3\.", ".mlp.fc2."),
    ),
    drop=("mask_token", "dino_head.", "ibot_head.", "head."),
    convert=_fold_class_position,
)
TRANSFORMERS_CLIP = KeyMap(
    rename=(
        (r"^vision_model\.", ""),
        (r"^visual_projection\.", "head."),
        (r"^embeddings\.class_embedding$", "cls_token"),
        (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
        (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
        (r"^pre_layrnorm\.", "norm_pre."),
        (r"^post_layernorm\.", "norm."),
        (r"^encoder\.layers\.(\d+)\.", r"blocks.\1."),
        (r"\.self_attn\.q_proj\.", ".attn.query."),
        (r"\.self_attn\.k_proj\.", ".attn.key."),
        (r"\.self_attn\.v_proj\.", ".attn.value."),
        (r"\.self_attn\.out_proj\.", ".attn.proj."),
        (r"\.layer_norm(\d)\.", r".norm\1."),
    ),
    drop=("text_model.", "text_projection.", "logit_scale", "embeddings."),
    fuse=_QUERY_KEY_VALUE,
    convert=_from_transformers_clip,
)
CONCH = KeyMap(
    # left out: the text tower, the decoder and its pooling, and the projection behind the head,
    # which is published for texts only; `trunk` is timm's own network
    rename=(
        (r"^visual\.trunk\.", ""),
        (r"^visual\.attn_pool_contrast\.", "head."),
        (r"^visual\.ln_contrast\.", "head.norm."),
        (r"^visual\.", ""),
    ),
    drop=("text.", "text_decoder.", "logit_scale", "attn_pool_caption.", "ln_caption.", "proj_"),
)
CTRANSPATH = KeyMap(
    # two buffers that a network computes by itself
    rename=((r"^.*\.(relative_position_index|attn_mask)$", "buffer"),),
    drop=("buffer", "head."),
    convert=_move_swin_downsampling,
)
