"""Swin transformers, and the convolutional stem that one of histopathology puts before them."""

from itertools import pairwise
from typing import Any

from timm.layers.helpers import to_2tuple
from torch import Tensor, nn
from typing_extensions import override

from histotransfer_pl.encoders.truncation import Stage, Trunk, average


class SwinTrunk(Trunk):
    """A Swin transformer: depths `stem`, `stage0`, ... and `norm`, the final layer norm.

    Its blocks keep the channels last; a stage begins with the halving of the map before it.
    """

    def __init__(self, network: Any) -> None:
        stages = [Stage(f"stage{i}", (f"layers.{i}",)) for i in range(len(network.layers))]
        super().__init__(
            network, [Stage("stem", ("patch_embed",)), *stages, Stage("norm", ("norm",))]
        )
        self.fixed_px = self.least_px = network.patch_embed.img_size[0]

    @override
    def vector(self, depth: str, output: Tensor) -> Tensor:
        return average(_channels_first(output))

    @override
    def map(self, depth: str, output: Tensor, sides: tuple[int, int]) -> Tensor:
        return _channels_first(output)


class ConvStem(nn.Module):
    """Three convolutions instead of one 4 x 4 projection (Wang et al. 2022, MedIA, CTransPath).

    Arguments are those that timm gives to a patch embedding; the output is (B, h, w, D).
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Any = None,
        **_other: Any,
    ) -> None:
        super().__init__()
        self.img_size = to_2tuple(img_size)
        self.patch_size = to_2tuple(patch_size)
        self.grid_size = tuple(side // patch_size for side in self.img_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        widths = (in_chans, embed_dim // 8, embed_dim // 4)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
        self.proj = nn.Sequential(*layers, nn.Conv2d(widths[-1], embed_dim, 1))
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)

    @override
    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))  # (B, h, w, D)
        return tokens


def _channels_first(output: Tensor) -> Tensor:
    return output.permute(0, 3, 1, 2)  # (B, h, w, D) to (B, D, h, w)
