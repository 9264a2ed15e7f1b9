"""Vision transformers, cut after any block or inside one."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from histotransfer_pl.encoders.entry import Pooling
from histotransfer_pl.encoders.truncation import Stage, Trunk, unknown_depth
from histotransfer_pl.errors import EncoderError

_HIDDEN = ".mlp"
"""Suffix of the depths inside a block."""
_NORM, _PROJECTION = "norm", "projection"


class VitTrunk(Trunk):
    """A vision transformer: depths `block0`, `block1`, ... and `norm`, the final layer norm.

    The output of a block is the residual stream behind it, not normalised: only `norm` is the
    feature its publishers speak of. When asked for by name, `block0.mlp` and so on are the hidden
    activations of the feed-forward network inside a block, as its last linear layer takes them:
    after the nonlinearity, after the gate of a gated one. A network with a head (`num_classes` or
    `head_layer` in its arguments), such as a vision tower of CLIP, ends with `projection`, what the
    head makes of the pooled vector; its feature map is that of `norm`.
    """

    def __init__(self, network: Any, pooling: Pooling) -> None:
        blocks = [Stage(f"block{i}", (f"blocks.{i}",)) for i in range(len(network.blocks))]
        stages = [*blocks, Stage(_NORM, (_NORM, "fc_norm"))]
        self._on_tokens = isinstance(network.head, AttentionPool)
        if self._on_tokens or (pooling == "token" and not isinstance(network.head, nn.Identity)):
            stages.append(Stage(_PROJECTION, ("head",)))
        super().__init__(network, stages)
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
        return [f"{depth}{_HIDDEN}" for depth in self.depths if depth.startswith("block")]

    @override
    def dims(self, depths: Sequence[str], side: int) -> dict[str, int]:
        network: Any = self.network
        parts = 2 if self.pooling == "token_and_mean" else 1
        hidden = {depth: self._last_linear(depth).in_features for depth in self.inner_depths}
        found = {depth: parts * hidden.get(depth, network.embed_dim) for depth in depths}
        return found | ({_PROJECTION: network.head.out_features} if _PROJECTION in depths else {})

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
        if stage.depth == _PROJECTION:  # of the vector
            return x
        # fc_norm belongs behind the pooling
        return super().run(Stage(_NORM, (_NORM,)) if stage.depth == _NORM else stage, x)

    @override
    def vector(self, depth: str, output: Tensor) -> Tensor:
        tokens = output.to(torch.promote_types(output.dtype, torch.float32))  # (B, T, D)
        head = self.network.get_submodule("head")
        if depth == _PROJECTION and self._on_tokens:
            return head(tokens)  # type: ignore[no-any-return]
        pooled = pool_tokens(tokens, self.pooling, self.prefix_tokens)  # (B, D) or (B, 2 D)
        if depth not in (_NORM, _PROJECTION):
            return pooled
        normed: Tensor = self.network.get_submodule("fc_norm")(pooled)
        return head(normed) if depth == _PROJECTION else normed

    @override
    def map(self, depth: str, output: Tensor, sides: tuple[int, int]) -> Tensor:
        del depth
        grid = (sides[0] // self.patch_px, sides[1] // self.patch_px)
        patches = output[:, self.prefix_tokens :]  # (B, h w, D)
        return patches.transpose(1, 2).reshape(len(output), -1, *grid)  # (B, D, h, w)

    @override
    def _index(self, depth: str) -> int:
        block = depth.removesuffix(_HIDDEN)
        if block in (_NORM, _PROJECTION) and block != depth:
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
            if not stage.depth.startswith("block"):
                x = self.run(stage, x)
            else:
                x = network.blocks[i](x, rope=rotations[i] if mixed else rotations)
            yield stage.depth, x


class AttentionPool(nn.Module):
    """Head of CONCH: one learnt query attends to all tokens, and a norm follows.

    Attentional pooling of CoCa (Yu et al. 2022), with the sizes of CONCH (Lu et al. 2024).
    """

    def __init__(self, embed_dim: int, out_features: int = 512, heads: int = 8) -> None:
        super().__init__()
        self.out_features = out_features
        self.query = nn.Parameter(nn.init.normal_(torch.empty(1, out_features)))
        self.attn = nn.MultiheadAttention(
            out_features, heads, kdim=embed_dim, vdim=embed_dim, batch_first=True
        )
        self.ln_q = nn.LayerNorm(out_features)
        self.ln_k = nn.LayerNorm(embed_dim)
        self.norm = nn.LayerNorm(out_features)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        keys = self.ln_k(tokens)  # (B, T, D)
        # times one: the counter of operations refuses modules that are called with a parameter
        query = self.ln_q(self.query * 1).expand(len(tokens), -1, -1)  # (B, 1, out_features)
        pooled = self.attn(query, keys, keys, need_weights=False)[0]  # (B, 1, out_features)
        vector: Tensor = self.norm(pooled[:, 0])
        return vector


def pool_tokens(tokens: Tensor, pooling: Pooling, prefix_tokens: int) -> Tensor:
    """Vectors (B, D), or (B, 2 D) of `token_and_mean`, from tokens (B, T, D), class token first."""
    if pooling == "token":
        return tokens[:, 0]
    mean = tokens[:, prefix_tokens:].mean(1)  # (B, D)
    return mean if pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=1)
