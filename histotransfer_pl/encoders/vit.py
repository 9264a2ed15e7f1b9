"""Vision transformers, cut after any block or inside one."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from histotransfer_pl.encoders.entry import Pooling
from histotransfer_pl.encoders.truncation import Stage, Trunk, unknown_depth
from histotransfer_pl.errors import EncoderError

_HIDDEN = ".mlp"
"""Suffix of the depths inside a block."""


class VitTrunk(Trunk):
    """A vision transformer: depths `block0`, `block1`, ... and `norm`, the final layer norm.

    The output of a block is the residual stream behind it, not normalised: only `norm` is the
    feature its publishers speak of. When asked for by name, `block0.mlp` and so on are the hidden
    activations of the feed-forward network inside a block, as its last linear layer takes them:
    after the nonlinearity, after the gate of a gated one.
    """

    def __init__(self, network: Any, pooling: Pooling) -> None:
        blocks = [Stage(f"block{i}", (f"blocks.{i}",)) for i in range(len(network.blocks))]
        super().__init__(network, [*blocks, Stage("norm", ("norm", "fc_norm"))])
        self.equal_stages = [block.depth for block in blocks[2:]]
        self.pooling = pooling
        self.prefix_tokens: int = network.num_prefix_tokens
        self.patch_px: int = network.patch_embed.patch_size[0]
        self.multiple_px = self.least_px = self.patch_px
        if not network.dynamic_img_size:
            self.fixed_px = network.patch_embed.img_size[0]
        if pooling != "mean" and network.cls_token is None:
            raise EncoderError("this ViT has no class token: set pooling to `mean`")

    @property
    @override
    def inner_depths(self) -> list[str]:
        return [f"{depth}{_HIDDEN}" for depth in self.depths if depth != "norm"]

    @override
    def dims(self, depths: Sequence[str], side: int) -> dict[str, int]:
        network: Any = self.network
        parts = 2 if self.pooling == "token_and_mean" else 1
        hidden = {depth: self._last_linear(depth).in_features for depth in self.inner_depths}
        return {depth: parts * hidden.get(depth, network.embed_dim) for depth in depths}

    @override
    def forward(self, images: Tensor, depths: Collection[str]) -> dict[str, Tensor]:
        inner = [depth for depth in depths if depth in self.inner_depths]
        if not inner:
            return super().forward(images, depths)
        kept: dict[str, Tensor] = {}
        hooks = [
            self._last_linear(depth).register_forward_pre_hook(
                lambda _module, inputs, depth=depth: kept.update({depth: inputs[0]})
            )
            for depth in inner
        ]
        blocks = {depth.removesuffix(_HIDDEN) for depth in depths}
        try:
            outputs = super().forward(images, blocks) | kept
        finally:
            for hook in hooks:
                hook.remove()
        return {depth: outputs[depth] for depth in depths}

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
        pooled = pool_tokens(tokens, self.pooling, self.prefix_tokens)  # (B, D) or (B, 2 D)
        return self.network.get_submodule("fc_norm")(pooled) if depth == "norm" else pooled

    @override
    def map(self, depth: str, output: Tensor, sides: tuple[int, int]) -> Tensor:
        del depth
        grid = (sides[0] // self.patch_px, sides[1] // self.patch_px)
        patches = output[:, self.prefix_tokens :]  # (B, h w, D)
        return patches.transpose(1, 2).reshape(len(output), -1, *grid)  # (B, D, h, w)

    @override
    def _index(self, depth: str) -> int:
        block = depth.removesuffix(_HIDDEN)
        if block == "norm" != depth:
            raise unknown_depth(depth, self.depths)
        return super()._index(block)

    def _last_linear(self, inner: str) -> Any:
        """The last linear layer of a feed-forward network, or the adapter around it."""
        mlp = self.network.get_submodule(f"blocks.{self._index(inner)}.mlp")
        return [module for module in mlp.children() if hasattr(module, "in_features")][-1]


class RotaryVitTrunk(VitTrunk):
    """A transformer of timm's Eva family, such as DINOv3: positions are rotations in each block."""

    @override
    def steps(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        network: Any = self.network
        x, rotations = network._pos_embed(network.patch_embed(images))  # (B, prefix + h w, D)
        x = network.norm_pre(x)
        mixed = getattr(network, "rope_mixed", False)  # rotations of their own for each block
        for i, stage in enumerate(self.stages):
            if stage.depth == "norm":
                x = self.run(stage, x)
            else:
                x = network.blocks[i](x, rope=rotations[i] if mixed else rotations)
            yield stage.depth, x


def pool_tokens(tokens: Tensor, pooling: Pooling, prefix_tokens: int) -> Tensor:
    """Vectors (B, D), or (B, 2 D) of `token_and_mean`, from tokens (B, T, D), class token first."""
    if pooling == "token":
        return tokens[:, 0]
    mean = tokens[:, prefix_tokens:].mean(1)  # (B, D)
    return mean if pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=1)
