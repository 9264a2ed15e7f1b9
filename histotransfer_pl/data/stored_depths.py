"""What a store keeps of the depths that are extracted, and how large that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from histotransfer_pl.errors import ConfigError

_METADATA_BYTES = 5 * 4096
"""Blocks of the metadata, the folders and the values of a small array on common file systems."""


@dataclass(frozen=True)
class StoredDepths:
    """What the store keeps of the depths that are extracted.

    Attributes:
        means: Depths of which the mean over the patches of each slide is stored, a thousandth of
            the space: enough for heads that average patches first, and for `gain`.
        full: Depths of which every patch is stored. Where a depth has means alone, only a
            `MeanPoolHead` without hidden layers is fitted on it.
    """

    means: list[str] | Literal["all"] | None = None
    full: list[str] | Literal["all"] = "all"

    def kept(self, depths: Sequence[str]) -> tuple[list[str], list[str]]:
        """Of some depths those whose means are stored, and those stored in full."""
        means = [d for d in depths if self.means == "all" or d in (self.means or ())]
        full = [d for d in depths if self.full == "all" or d in self.full]
        lost = [depth for depth in depths if depth not in (*means, *full)]
        if lost:
            raise ConfigError(
                f"store keeps nothing of the depth {lost[0]}: name it in store.means or store.full"
            )
        return means, full

    def size(self, slides: int, patches: int, dims: Mapping[str, int]) -> int:
        """Bytes in a store of the features of one encoder, with the coordinates.

        Args:
            slides: Slides of the store.
            patches: Patches of all of them together.
            dims: Width of the features at each depth that is extracted.

        Raises:
            ConfigError: A depth of which nothing is kept.
        """
        means, full = self.kept(list(dims))
        return feature_bytes(patches, [dims[depth] for depth in full]) + slides * sum(
            4 * dims[depth] + _METADATA_BYTES for depth in means
        )


def feature_bytes(patches: int, dims: Sequence[int]) -> int:
    """Size in a store of float16 features of these widths, with the coordinates."""
    return patches * (2 * sum(dims) + 8)
