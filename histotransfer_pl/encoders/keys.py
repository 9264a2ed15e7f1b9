"""How the keys of a published checkpoint become the keys of the network that timm builds."""

import re
from collections.abc import Mapping
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
    """

    rename: tuple[tuple[str, str], ...] = ()
    drop: tuple[str, ...] = ()
    fuse: tuple[tuple[tuple[str, ...], str], ...] = ()

    def apply(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state dict with timm's keys and without the classifier."""
        renamed = {self._rename(key): value for key, value in state.items()}
        kept = {key: value for key, value in renamed.items() if not key.startswith(self.drop)}
        for parts, joined in self.fuse:
            kept = _fuse(kept, parts, joined)
        return kept

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
PHIKON = KeyMap(
    # the layout of ViTModel in the transformers library
    rename=(
        (r"^vit\.", ""),
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
        (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"^layernorm\.", "norm."),
    ),
    drop=("pooler.", "head."),
    fuse=(((".attn.query.", ".attn.key.", ".attn.value."), ".attn.qkv."),),
)
