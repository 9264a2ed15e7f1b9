"""Networks as a sequence of named blocks that can be cut after any of them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from histotransfer_pl.errors import EncoderError


@dataclass(frozen=True)
class Stage:
    """A block after which a network may be cut.

    Attributes:
        depth: Its name for the user.
        modules: Names of the network's submodules it consists of, in the order they run.
    """

    depth: str
    modules: tuple[str, ...]


class Trunk(nn.Module):
    """A network run block by block, up to the deepest one asked for.

    The network keeps timm's names, so that its state dict is a timm checkpoint. Blocks behind a
    cut are replaced by `nn.Identity`: neither their weights are kept nor do they run.
    """

    multiple_px = 1
    """Input sides must be multiples of this many pixels ..."""
    least_px = 32
    """... at least this many, so that something is left after five halvings ..."""
    fixed_px: int | None = None
    """... and exactly this many, where a network takes one size only."""

    incremental = True
    """Whether a step starts from the step before it, or from the images."""
    equal_stages: Collection[str] = ()
    """Depths whose stages cost what the stage before them costs."""

    def __init__(self, network: nn.Module, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.network = network
        self.stages = tuple(stages)

    @property
    def depths(self) -> list[str]:
        """Depths that are left, shallowest first."""
        return [stage.depth for stage in self.stages]

    @property
    def inner_depths(self) -> list[str]:
        """Further depths inside blocks, given only when asked for by name."""
        return []

    def place(self, depth: str) -> tuple[int, bool]:
        """Where a depth lies; one inside a block lies before the block's end."""
        return self._index(depth), depth in self.depths

    def dims(self, depths: Sequence[str], side: int) -> dict[str, int]:
        """Feature dimensions D of depths, found by a pass over an empty image.

        Args:
            depths: Depths of this trunk.
            side: Side of an image that the network takes, in pixels.
        """
        # of blocks that are run one by one the dimensions are the same whatever the size
        side = self.least_px if self.incremental else side
        device = next((parameter.device for parameter in self.parameters()), None)
        training = self.training
        # not inference mode: a network may keep what it computes in its first pass
        with torch.no_grad():
            outputs = self.eval()(torch.zeros(1, 3, side, side, device=device), depths)
        self.train(training)
        return {depth: self.vector(depth, outputs[depth]).shape[1] for depth in depths}

    def keys_behind(self, depth: str) -> set[str]:
        """State dict keys of the network that a cut after `depth` removes."""
        prefixes = tuple(f"{name}." for name in self._modules_behind(depth))
        return {key for key in self.network.state_dict() if key.startswith(prefixes)}

    def cut_after(self, depth: str) -> None:
        """Remove everything behind the block `depth`, in place."""
        for name in self._modules_behind(depth):
            parent, _, child = name.rpartition(".")
            setattr(self.network.get_submodule(parent), child, nn.Identity())
        self.stages = self.stages[: self._index(depth) + 1]

    @override
    def forward(self, images: Tensor, depths: Collection[str]) -> dict[str, Tensor]:
        """Outputs of the blocks `depths` for normalised images (B, 3, P, P), in one pass."""
        left = {self._index(depth): depth for depth in depths}
        outputs = {}
        for i, (depth, output) in enumerate(self.steps(images)):
            if i in left:
                outputs[depth] = output
            if i == max(left):  # what lies behind is not computed
                break
        return outputs

    def steps(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Every depth and its output, each computed from the one before when asked for."""
        if not self.incremental:
            for depth in self.depths:
                yield depth, self(images, [depth])[depth]
            return
        x = self.enter(images)
        for stage in self.stages:
            x = self.run(stage, x)
            yield stage.depth, x

    def enter(self, images: Tensor) -> Tensor:
        """Whatever happens before the first block."""
        return images

    def run(self, stage: Stage, x: Tensor) -> Tensor:
        """Output of one block."""
        for name in stage.modules:
            x = self.network.get_submodule(name)(x)
        return x

    def vector(self, depth: str, output: Tensor) -> Tensor:
        """Feature vectors (B, D) from a block's output."""
        del depth
        return average(output)

    def map(self, depth: str, output: Tensor, sides: tuple[int, int]) -> Tensor:
        """Feature maps (B, D, h, w) from a block's output for images of height, width `sides`."""
        del depth, sides
        return output

    def _index(self, depth: str) -> int:
        if depth not in self.depths:
            raise unknown_depth(depth, self.depths)
        return self.depths.index(depth)

    def _modules_behind(self, depth: str) -> list[str]:
        return [m for stage in self.stages[self._index(depth) + 1 :] for m in stage.modules]


class ConvNextTrunk(Trunk):
    """ConvNeXt normalises after pooling: depth `norm` is the pooled `stage3`, normalised.

    Its feature map is normalised position by position, so its mean is not the feature vector.
    """

    @override
    def run(self, stage: Stage, x: Tensor) -> Tensor:
        return x if stage.depth == "norm" else super().run(stage, x)

    @override
    def vector(self, depth: str, output: Tensor) -> Tensor:
        pooled = average(output)  # (B, D)
        if depth != "norm":
            return pooled
        normalised: Tensor = self.network.get_submodule("head.norm")(pooled[:, :, None, None])
        return normalised.flatten(1)

    @override
    def map(self, depth: str, output: Tensor, sides: tuple[int, int]) -> Tensor:
        del sides
        normalise = self.network.get_submodule("head.norm") if depth == "norm" else nn.Identity()
        result: Tensor = normalise(output)
        return result


def average(maps: Tensor) -> Tensor:
    """Global average pool of (B, D, h, w) to (B, D), summed in float32 at least."""
    return maps.mean((-2, -1), dtype=torch.promote_types(maps.dtype, torch.float32))


def unknown_depth(depth: str, depths: Sequence[str]) -> EncoderError:
    """The error for a depth that the network does not have."""
    return EncoderError(
        f"depth {depth!r} does not exist in this encoder; its depths are {', '.join(depths)} "
        "(or say `all` or `last`)"
    )


def select_depths(trunk: Trunk, wanted: Sequence[str] | Literal["all", "last"]) -> list[str]:
    """The wanted depths in the order of the network."""
    available = trunk.depths
    if wanted == "all":
        return available
    if wanted == "last":
        return available[-1:]
    if isinstance(wanted, str):  # a list with one name, written without brackets
        wanted = [wanted]
    inner = trunk.inner_depths
    for depth in wanted:
        if depth not in (*available, *inner):
            raise unknown_depth(depth, available)
    if not wanted:
        raise EncoderError(f"no depths given; say `all`, `last` or some of {', '.join(available)}")
    known = dict.fromkeys([*inner, *available])
    return sorted((depth for depth in known if depth in wanted), key=trunk.place)


def resnet_stages(network: Any) -> list[Stage]:
    """`stem` is everything before layer1, its pooling included."""
    stem = tuple(name for name in ("conv1", "bn1", "act1", "maxpool") if hasattr(network, name))
    return [Stage("stem", stem), *(Stage(f"layer{i}", (f"layer{i}",)) for i in range(1, 5))]


def densenet_stages(network: Any) -> list[Stage]:
    """The stem is everything before denseblock1; then the layers by their names."""
    names = [name for name, _ in network.features.named_children()]
    first = names.index("denseblock1")
    stem = Stage("stem", tuple(f"features.{name}" for name in names[:first]))
    return [stem, *(Stage(name, (f"features.{name}",)) for name in names[first:])]


def efficientnet_stages(network: Any) -> list[Stage]:
    """`head` is the last 1 x 1 convolution, with its norm and activation."""
    blocks = [Stage(f"block{i}", (f"blocks.{i}",)) for i in range(len(network.blocks))]
    return [Stage("stem", ("conv_stem", "bn1")), *blocks, Stage("head", ("conv_head", "bn2"))]


def convnext_stages(network: Any) -> list[Stage]:
    """Stages by their names; `norm` is the last layer norm, applied to the pooled `stage3`."""
    stages = [Stage(f"stage{i}", (f"stages.{i}",)) for i in range(len(network.stages))]
    return [Stage("stem", ("stem",)), *stages, Stage("norm", ("norm_pre", "head.norm"))]
