"""What a user says of an encoder."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Arguments = dict[str, Any]
"""Arguments of a network's constructor."""

Method = Literal["full", "last_blocks", "lora", "frozen"]
"""What of an encoder is trained."""

PoolingChoice = Literal["default", "token", "mean", "token_and_mean"]


@dataclass
class EncoderConfig:
    """An encoder, its weights and the depths to take features at.

    Attributes:
        name: Name in the catalogue, `timm:<name>`, `hf-hub:<repository>`, or the path of a YAML
            file that describes an encoder of one's own; `colour` for mean and deviation of the
            channels, the control without a network.
        weights: `default` (the entry's own: weights folder, installed package, hub), `random`, or
            the path of a checkpoint (.safetensors or a torch file of tensors).
        seed: Seed of random weights.
        depths: Names of the blocks to take features after, `all`, or `last`.
        alias: Name in the store, instead of `name`.
        input_px: Side to which patches are resized on the device; as they are when null.
        pooling: `default` (the entry's own); for a ViT also `token` (class token), `mean` (mean
            over the patch tokens) or `token_and_mean` (both, one behind the other).
        allow_download: Whether missing weights may be fetched from the hub.
        channels_last: Memory layout of a CNN; faster on most devices, same features.
        model_args: Arguments of the network's constructor on top of the entry's own, such as
            `{reg_tokens: 4, init_values: 1.0e-5, mlp_layer: SwiGLUPacked, act_layer: silu}`.
        weights_key: Which network of a checkpoint that holds several: the place that the error
            lists, such as `teacher` or `state_dict.module.encoder_q`.
        base_weights: Weights on which an adapter file stands, where they are no longer those that
            the file names.
    """

    name: str
    weights: str = "default"
    seed: int = 0
    depths: list[str] | Literal["all", "last"] = "last"
    alias: str | None = None
    input_px: int | None = None
    pooling: PoolingChoice = "default"
    allow_download: bool = False
    channels_last: bool = True
    model_args: Arguments = field(default_factory=dict)
    weights_key: str | None = None
    base_weights: str | None = None

    @property
    def store_name(self) -> str:
        """Name of the encoder in the store."""
        if self.alias is not None:
            return self.alias
        own = self.name.endswith((".yaml", ".yml"))
        name = Path(self.name).stem if own else re.sub(r"[:/]", "_", self.name)
        if self.pooling != "default":
            name += f"-{self.pooling}"
        return f"{name}-random{self.seed}" if self.weights == "random" else name
