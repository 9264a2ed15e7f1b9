"""The patch grid against plain loops over level-0 pixels."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotransfer_pl.errors import ConfigError, RecordError
from histotransfer_pl.records.grid import GridSettings, TissueSettings
from histotransfer_pl.slides.grid import patch_grid, patch_grid_with_tissue, patch_size_level0


def test_whole_patches_row_by_row() -> None:
    mask = np.ones((10, 10), bool)
    coords = patch_grid(mask, 8.0, 0.5, (160, 160), GridSettings(64, 0.5))
    assert coords.dtype == np.int32
    assert coords.tolist() == [[0, 0], [64, 0], [0, 64], [64, 64]]


def test_patches_fit_exactly_or_not_at_all() -> None:
    mask = np.ones((8, 8), bool)
    assert len(patch_grid(mask, 8.0, 0.5, (128, 128), GridSettings(64, 0.5))) == 4
    assert len(patch_grid(mask, 8.0, 0.5, (127, 128), GridSettings(64, 0.5))) == 2
    assert patch_grid(mask, 8.0, 0.5, (63, 128), GridSettings(64, 0.5)).shape == (0, 2)


def test_fractional_sides_do_not_drift() -> None:
    # 224 px at 0.5 um on a slide of 0.499 um: 224.449 level-0 pixels.
    side = patch_size_level0(224, 0.5, 0.499)
    assert side == pytest.approx(224.44890, abs=1e-5)
    coords = patch_grid(np.ones((1, 1), bool), 20000.0, 0.499, (30000, 300), GridSettings())
    x = coords[:, 0]
    assert len(x) == int(30000 / side)
    assert np.abs(x - np.arange(len(x)) * side).max() <= 0.5


def test_nearly_equal_resolutions_are_one() -> None:
    assert patch_size_level0(224, 0.25, 0.25 * (1 + 1e-7)) == 224.0
    assert patch_size_level0(224, 0.5, 0.499) != 224.0


@pytest.mark.parametrize(("overlap", "step"), [(0, 64), (16, 48), (63, 1)])
def test_overlap(overlap: int, step: int) -> None:
    coords = patch_grid(np.ones((1, 1), bool), 8e3, 0.5, (200, 64), GridSettings(64, 0.5, overlap))
    assert coords[:, 0].tolist() == list(range(0, 200 - 64 + 1, step))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    patch_px=st.integers(2, 24),
    overlap=st.integers(0, 1),
    mpp=st.sampled_from([0.25, 0.5, 0.7, 1.0, 3.0]),
    mask_mpp=st.sampled_from([1.0, 1.5, 4.0]),
    min_tissue=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
)
def test_grid_equals_counting_tissue_patch_by_patch(
    seed: int, patch_px: int, overlap: int, mpp: float, mask_mpp: float, min_tissue: float
) -> None:
    slide_mpp, width, height = 0.5, 97, 61
    rng = np.random.default_rng(seed)
    pixel = mask_mpp / slide_mpp
    shape = (int(np.ceil(height / pixel)), int(np.ceil(width / pixel)))
    mask = rng.random(shape) < 0.6
    grid = GridSettings(patch_px, mpp, overlap, min_tissue)
    side = patch_px * mpp / slide_mpp
    step = (patch_px - overlap) * mpp / slide_mpp

    def corners(length: int) -> list[int]:
        exact = (int(np.floor(i * step + 0.5)) for i in range(10_000))
        return sorted({c for c in exact if c + side <= length + 1e-6})

    def tissue(x: int, y: int) -> float:
        total = 0.0
        for row, column in np.argwhere(mask):
            w = min(x + side, (column + 1) * pixel) - max(x, column * pixel)
            h = min(y + side, (row + 1) * pixel) - max(y, row * pixel)
            total += max(w, 0) * max(h, 0)
        return total / side**2

    shares = {(x, y): tissue(x, y) for y in corners(height)[-3:] for x in corners(width)[:3]}
    coords, found = patch_grid_with_tissue(mask, mask_mpp, slide_mpp, (width, height), grid)
    got = dict(zip(map(tuple, coords.tolist()), found.tolist(), strict=True))
    for place, share in shares.items():
        if abs(share - min_tissue) > 1e-6:
            assert (place in got) == (share >= min_tissue)
        if place in got:
            assert got[place] == pytest.approx(share, abs=1e-5)


def test_outside_of_the_mask_is_no_tissue() -> None:
    coords, share = patch_grid_with_tissue(
        np.ones((1, 1), bool), 8.0, 0.5, (32, 16), GridSettings(16, 0.5, min_tissue=0)
    )
    assert coords.tolist() == [[0, 0], [16, 0]]
    assert share.tolist() == [1.0, 0.0]


def test_settings_survive_json() -> None:
    grid = GridSettings(
        256, 0.25, 32, 0.1, TissueSettings("threshold", saturation_threshold=0.2, min_area_um2=5.0)
    )
    assert GridSettings.from_json(json.loads(json.dumps(grid.to_json()))) == grid
    assert GridSettings.from_json({}) == GridSettings()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch": 224}, "GridSettings has no patch, only patch_px, mpp"),
        ({"tissue": {"otsu": True}}, "GridSettings.tissue has no otsu"),
        ({"patch_px": 0}, "patch_px is 0"),
        ({"mpp": -0.5}, "mpp is -0.5"),
        ({"mpp": float("nan")}, "mpp is nan"),
        ({"overlap_px": 224}, "overlap_px is 224, expected 0 to 223"),
        ({"min_tissue": 1.5}, "min_tissue is 1.5"),
    ],
)
def test_bad_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, RecordError), match=message):
        GridSettings.from_json(values)
