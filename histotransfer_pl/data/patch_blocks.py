"""Which patches of a slide are read together, so that each tile of its file is decoded once.

A patch touches the tiles under it, and its neighbours touch them too. Who reads a whole block of
neighbours decodes each tile inside it once; only tiles on the border of two blocks are decoded by
both. Blocks end between two tiles where the grid allows it (224 px patches on 256 px tiles: every
1,792 px), and are 15 tiles wide where it does not, so that the border is at most 14 % of a block.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SIDE = 15
"""Tiles, or patches, along a side: (16 / 15)^2 = 1.14 decodes per tile at worst."""
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Blocks:
    """The rows of a slide in the order in which they are read.

    Attributes:
        rows: (N,) rows of the store, block by block, within a block line by line.
        starts: (B + 1,) where each block begins in ``rows``, and the end of the last one.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    def share(self, part: int, parts: int) -> NDArray[np.int64]:
        """The rows of one of ``parts`` shares of whole blocks, about equal in patches."""
        middles = (self.starts[:-1] + self.starts[1:]) / 2  # (B,)
        owners = (middles * parts / max(1, len(self.rows))).astype(np.int64)  # (B,) ascending
        first, end = np.searchsorted(owners, [part, part + 1])
        return self.rows[self.starts[first] : self.starts[end]]


def plan_blocks(
    coords: NDArray[np.int32], patch: float, stride: float, tile: tuple[float, float]
) -> Blocks:
    """Group the patches of a slide by place.

    Args:
        coords: (N, 2) top-left corners x, y in level-0 pixels.
        patch: Side of a patch in level-0 pixels.
        stride: Distance of two neighbours in level-0 pixels.
        tile: Width and height in level-0 pixels of the file tiles that they are read from.
    """
    width, height = (block_side(patch, stride, side) for side in tile)
    columns, lines = coords[:, 0] // width, coords[:, 1] // height  # (N,) each
    rows = np.lexsort((coords[:, 0], coords[:, 1], columns, lines))
    place = np.stack([lines[rows], columns[rows]])  # (2, N)
    changes = np.flatnonzero((np.diff(place) != 0).any(axis=0)) + 1
    starts = [0, *changes.tolist(), len(coords)] if len(coords) else [0]
    return Blocks(rows, np.array(starts, np.int64))


def block_side(patch: float, stride: float, tile: float) -> float:
    """Side of a block in level-0 pixels, for one axis."""
    shared = _common_multiple(stride, tile)
    aligned = shared is not None and shared <= 24 * max(stride, tile)
    beyond = patch - stride if aligned else patch  # how far patches reach over the block's end
    extra = math.ceil(beyond / tile - _TOLERANCE)
    least = _SIDE * max(extra * tile, stride)
    if aligned and shared is not None:
        return shared * math.ceil(least / shared - _TOLERANCE)
    return least


def _common_multiple(stride: float, tile: float) -> float | None:
    """The smallest multiple of both, if it is not far away."""
    for count in range(1, 65):
        tiles = count * stride / tile
        if round(tiles) and abs(tiles - round(tiles)) <= _TOLERANCE * count:
            return count * stride
    return None
