"""What a user says of an encoder."""

import re
from dataclasses import dataclass
from typing import Literal

PoolingChoice = Literal["default", "token", "mean"]


@dataclass
class EncoderConfig:
    """An encoder, its weights and the depths to take features at.

    Attributes:
        name: Name in the catalogue, `timm:<name>` or `hf-hub:<repository>`; `colour` for mean and
            deviation of the channels, the control without a network.
        weights: `default` (the entry's own: weights folder, installed package, hub), `random`, or
            the path of a checkpoint (.safetensors or a torch file of tensors).
        seed: Seed of random weights.
        depths: Names of the blocks to take features after, `all`, or `last`.
        alias: Name in the store, instead of `name`.
        input_px: Side to which patches are resized on the device; as they are when null.
        pooling: `default` (the entry's own); for a ViT also `token` (class token) or `mean` (mean
            over the patch tokens).
        allow_download: Whether missing weights may be fetched from the hub.
        channels_last: Memory layout of a CNN; faster on most devices, same features.
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

    @property
    def store_name(self) -> str:
        """Name of the encoder in the store."""
        if self.alias is not None:
            return self.alias
        name = re.sub(r"[:/]", "_", self.name)
        if self.pooling != "default":
            name += f"-{self.pooling}"
        return f"{name}-random{self.seed}" if self.weights == "random" else name
