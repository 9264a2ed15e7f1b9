"""Networks of other families, through timm's common interface for intermediate outputs."""

import copy
from collections.abc import Collection
from typing import Any

from torch import Tensor
from typing_extensions import override

from histotransfer_pl.encoders.truncation import Stage, Trunk, unknown_depth
from histotransfer_pl.errors import EncoderError


class GenericTrunk(Trunk):
    """Depths `feature0`, `feature1`, ...: the outputs that timm itself offers for a network.

    The deepest of them lies before the final norm or 1 x 1 convolution, where a network has one.
    """

    incremental = False

    def __init__(self, network: Any) -> None:
        for method in ("forward_intermediates", "prune_intermediate_layers"):
            if not hasattr(network, method):
                raise EncoderError(
                    f"{type(network).__name__} cannot be cut: timm offers no {method} for it; "
                    "take another network"
                )
        count = len(network.feature_info)
        super().__init__(network, [Stage(f"feature{i}", ()) for i in range(count)])
        if network.default_cfg.get("fixed_input_size"):
            self.fixed_px = network.default_cfg["input_size"][-1]

    @override
    def keys_behind(self, depth: str) -> set[str]:
        # Only a cut tells, so a copy is cut. The copy has the modules of its own, not the weights.
        state = self.network.state_dict(keep_vars=True)
        network: Any = copy.deepcopy(self.network, {id(value): value for value in state.values()})
        network.prune_intermediate_layers([self._index(depth)], prune_norm=True, prune_head=True)
        return set(state) - set(network.state_dict())

    @override
    def cut_after(self, depth: str) -> None:
        network: Any = self.network
        network.prune_intermediate_layers([self._index(depth)], prune_norm=True, prune_head=True)
        self.stages = self.stages[: self._index(depth) + 1]

    @override
    def forward(self, images: Tensor, depths: Collection[str]) -> dict[str, Tensor]:
        for depth in depths:
            if depth not in self.depths:
                raise unknown_depth(depth, self.depths)
        indices = sorted(self.depths.index(depth) for depth in depths)
        network: Any = self.network
        outputs = network.forward_intermediates(
            images, indices=indices, stop_early=True, intermediates_only=True, output_fmt="NCHW"
        )
        return {self.depths[i]: output for i, output in zip(indices, outputs, strict=True)}
