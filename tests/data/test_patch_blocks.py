"""Blocks hold every row once, and share few tiles, for any grid on any tiling."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from histotransfer_pl.data.patch_blocks import block_side, plan_blocks


def _grid(stride: float, width: int, height: int) -> NDArray[np.int32]:
    """Corners of a whole grid, rounded as `patch_corners` does."""
    x, y = (np.floor(np.arange(int(n / stride)) * stride + 0.5) for n in (width, height))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.int32)


def tiles_under(
    coords: NDArray[np.int32], patch: float, tile: tuple[float, float]
) -> set[tuple[int, int]]:
    """Column and line of every file tile that these patches (N, 2) touch."""
    found: set[tuple[int, int]] = set()
    for x, y in coords.tolist():
        columns, lines = (
            range(int(a // side), math.ceil((a + patch) / side - 1e-6))
            for a, side in zip((x, y), tile, strict=True)
        )
        found.update((column, line) for column in columns for line in lines)
    return found


@pytest.mark.parametrize(
    ("patch", "stride", "tile", "pixels"),
    [
        (224, 224, 256, 30_000),  # ends between tiles every 8 patches
        (224, 224, 240, 30_000),
        (256, 256, 256, 30_000),
        (448, 448, 256, 60_000),  # half the resolution of level 0
        (448.9, 448.9, 256, 60_000),  # a resolution that fits nothing
        (896, 896, 256, 90_000),
        (50, 50, 256, 12_000),
        (64, 64, 512, 20_000),
        (224, 112, 256, 12_000),  # overlap
        (224, 224, 1024, 60_000),
    ],
)
@pytest.mark.parametrize("parts", [1, 3, 16])
def test_each_tile_is_decoded_about_once(
    patch: float, stride: float, tile: int, pixels: int, parts: int
) -> None:
    coords = _grid(stride, pixels, pixels // 2)
    blocks = plan_blocks(coords, patch, stride, (tile, tile))
    shares = [blocks.share(part, parts) for part in range(parts)]
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), np.arange(len(coords)))
    once = len(tiles_under(coords, patch, (tile, tile)))
    decodes = sum(
        len(tiles_under(coords[blocks.rows[start:stop]], patch, (tile, tile)))
        for start, stop in zip(blocks.starts[:-1], blocks.starts[1:], strict=True)
    )
    assert decodes / once <= 1.15
    assert max(map(len, shares)) <= len(coords) / parts + np.diff(blocks.starts).max()


def test_blocks_that_end_between_tiles_share_none() -> None:
    assert block_side(224, 224, 256) == 3584  # 16 patches, 14 tiles
    assert block_side(224, 224, 240) == 3360
    coords = _grid(224, 20_000, 20_000)
    blocks = plan_blocks(coords, 224, 224, (256, 256))
    seen: set[tuple[int, int]] = set()
    for start, stop in zip(blocks.starts[:-1], blocks.starts[1:], strict=True):
        touched = tiles_under(coords[blocks.rows[start:stop]], 224, (256, 256))
        assert seen.isdisjoint(touched)
        seen |= touched


def test_more_parts_than_blocks_and_no_patches() -> None:
    blocks = plan_blocks(_grid(224, 700, 700), 224, 224, (256, 256))
    assert [len(blocks.share(part, 4)) for part in range(4)].count(9) == 1
    empty = plan_blocks(np.zeros((0, 2), np.int32), 224, 224, (256, 256))
    assert len(empty.share(0, 1)) == 0
