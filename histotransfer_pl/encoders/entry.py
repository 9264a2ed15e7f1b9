"""What the catalogue says of an encoder: plain facts, no code."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from histotransfer_pl.encoders.keys import KeyMap
from histotransfer_pl.records.encoder import EncoderSpec, WeightsRef

Pooling = Literal["average", "token", "mean", "token_and_mean"]
"""Feature vector of a patch: global average pool (CNN); class token, mean of the patch tokens, or
both one behind the other (ViT). Registers never take part."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class WeightsSource:
    """Where the weights of an entry come from; the first place that has them wins.

    Attributes:
        files: File names looked for in the weights folder, ours first, then the publisher's.
        package: Installed package that carries the weights, with ...
        package_file: ... the file's path inside it.
        hub_repo: Hub repository, with ...
        hub_file: ... the file's name in it.
        page: Web page on which people find the weights and their terms.
    """

    files: tuple[str, ...]
    page: str
    package: str | None = None
    package_file: str | None = None
    hub_repo: str | None = None
    hub_file: str = "model.safetensors"


@dataclass(frozen=True)
class EncoderEntry:
    """One encoder of the catalogue.

    Attributes:
        name: Name in the catalogue.
        architecture: Name of the network in timm, or the import path of a class or factory.
        domain: What the weights were trained on.
        source: Where the weights come from.
        keys: How the checkpoint's keys become timm's.
        mean: Mean of the red, green and blue channel, of values in [0, 1].
        std: Their standard deviation.
        native_px: Side in pixels of the patches it was trained on.
        native_mpp: Micrometres per pixel it was trained at; None where there is no such thing.
        pooling: How a feature map becomes a vector.
        options: Arguments of its constructor, as plain JSON types.
        places: Depths by the module whose output they are, shallowest first; only for a network
            that is not built by timm.
        prefix_tokens: Tokens before the patch tokens in what such a network gives.
        norm_eps: Epsilon of the layer norms, where the publisher's differs from timm's.
        licence: Licence of the weights.
        citation: The work to cite.
        note: How its publisher uses it where that differs from here, and what could not be
            confirmed in the publisher's own words.
    """

    name: str
    architecture: str
    domain: Literal["imagenet", "natural", "histopathology", "other"]
    source: WeightsSource
    licence: str
    citation: str
    keys: KeyMap = field(default_factory=KeyMap)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    native_px: int = 224
    native_mpp: float | None = None
    pooling: Pooling = "average"
    options: Mapping[str, object] = field(default_factory=dict)
    norm_eps: float | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    prefix_tokens: int = 0
    note: str = ""

    def spec(self, weights: WeightsRef) -> EncoderSpec:
        """What an encoder of this entry says of itself with some weights."""
        return EncoderSpec(
            name=self.name,
            architecture=self.architecture,
            weights=weights,
            model_args=dict(self.options),
            pooling=self.pooling,
            mean=self.mean,
            std=self.std,
        )
