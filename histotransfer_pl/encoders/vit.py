"""Vision transformers, cut after any block."""

from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from histotransfer_pl.encoders.truncation import Stage, Trunk
from histotransfer_pl.errors import EncoderError


class VitTrunk(Trunk):
    """A vision transformer: depths `block0`, `block1`, ... and `norm`, the final layer norm.

    The output of a block is the residual stream behind it, not normalised: only `norm` is the
    feature its publishers speak of.
    """

    def __init__(self, network: Any, pooling: Literal["token", "mean"]) -> None:
        blocks = [Stage(f"block{i}", (f"blocks.{i}",)) for i in range(len(network.blocks))]
        super().__init__(network, [*blocks, Stage("norm", ("norm", "fc_norm"))])
        self.pooling = pooling
        self.prefix_tokens: int = network.num_prefix_tokens
        self.patch_px: int = network.patch_embed.patch_size[0]
        self.multiple_px = self.least_px = self.patch_px
        if not network.dynamic_img_size:
            self.fixed_px = network.patch_embed.img_size[0]
        if pooling == "token" and network.cls_token is None:
            raise EncoderError("this ViT has no class token: set pooling to `mean`")

    @override
    def enter(self, images: Tensor) -> Tensor:
        network: Any = self.network
        tokens: Tensor = network._pos_embed(network.patch_embed(images))  # (B, prefix + h w, D)
        return network.norm_pre(network.patch_drop(tokens))  # type: ignore[no-any-return]

    @override
    def run(self, stage: Stage, x: Tensor) -> Tensor:
        # fc_norm belongs behind the pooling
        return super().run(Stage("norm", ("norm",)) if stage.depth == "norm" else stage, x)

    @override
    def vector(self, depth: str, output: Tensor) -> Tensor:
        tokens = output.to(torch.promote_types(output.dtype, torch.float32))  # (B, T, D)
        patches = tokens[:, self.prefix_tokens :]
        pooled = tokens[:, 0] if self.pooling == "token" else patches.mean(1)  # (B, D)
        return self.network.get_submodule("fc_norm")(pooled) if depth == "norm" else pooled

    @override
    def map(self, depth: str, output: Tensor, sides: tuple[int, int]) -> Tensor:
        del depth
        grid = (sides[0] // self.patch_px, sides[1] // self.patch_px)
        patches = output[:, self.prefix_tokens :]  # (B, h w, D)
        return patches.transpose(1, 2).reshape(len(output), -1, *grid)  # (B, D, h, w)
