"""Patches land on the pixels of the thumbnail that show them."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from histotransfer_pl.report.attention_scale import TOP_COLOUR, AttentionScale, relative_attention
from histotransfer_pl.report.overlay import draw_overlay, patch_boxes, thumbnail_mpp, value_map
from histotransfer_pl.slides.reader import open_slide


@pytest.mark.parametrize("mpp", [0.5, 1.0, 2.0, 2.7])
def test_the_hot_patch_covers_the_pixels_that_show_it(tmp_path: Path, mpp: float) -> None:
    # A white slide with one black square: what the reader shows dark must be what is painted.
    x, y, side = 120, 200, 40
    pixels = np.full((360, 480, 3), 255, np.uint8)
    pixels[y : y + side, x : x + side] = 0
    path = tmp_path / "slide.tiff"
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb")
    with open_slide(path, 0.5) as reader:
        thumbnail = reader.thumbnail(mpp)
    coords = np.array([[0, 0], [x, y], [400, 300]], np.int32)
    boxes = patch_boxes(coords, float(side), 0.5, mpp)
    dark = value_map(thumbnail.shape[:2], boxes[1:2], np.ones(1)) == 1
    seen = thumbnail.mean(axis=2) < 128
    if mpp <= 2.0:
        np.testing.assert_array_equal(dark, seen)
    else:
        # Edges fall inside pixels, which are then half dark: at most the rim may differ.
        assert (dark != seen).sum() <= 2 * (dark.sum() ** 0.5) + 2
        assert (dark & seen).sum() > 0.7 * seen.sum()


def test_places_are_exact_for_a_fractional_scale() -> None:
    coords = np.array([[0, 0], [50, 0], [100, 50]], np.int32)
    boxes = patch_boxes(coords, 50.0, 1.0, 4.0)
    # 12.5 thumbnail pixels a patch: halves go up, and neighbours share their border.
    assert boxes.tolist() == [[0, 0, 13, 13], [13, 0, 25, 13], [25, 13, 38, 25]]


def test_a_patch_smaller_than_a_pixel_is_still_seen() -> None:
    boxes = patch_boxes(np.array([[100, 60]]), 4.0, 1.0, 40.0)
    assert boxes.tolist() == [[3, 2, 4, 3]]


def test_overlapping_patches_share_their_pixels_by_the_mean() -> None:
    boxes = np.array([[0, 0, 2, 1], [1, 0, 3, 1]])
    values = value_map((1, 4), boxes, np.array([1.0, 3.0]))
    np.testing.assert_array_equal(values, [[1.0, 2.0, 3.0, np.nan]])


def test_colours_are_those_of_the_scale_and_tissue_between_stays_grey() -> None:
    thumbnail = np.full((10, 30, 3), (200, 100, 150), np.uint8)
    boxes = np.array([[0, 0, 10, 10], [10, 0, 20, 10]])
    relative = relative_attention(np.array([0.1, 0.9]))
    pixels = draw_overlay(thumbnail, boxes, relative)
    grey = 128 + 150 / 2
    for column, colour in zip((5, 15), AttentionScale().colours(relative), strict=True):
        np.testing.assert_allclose(pixels[5, column], 0.75 * colour + 0.25 * grey, atol=1)
    np.testing.assert_array_equal(pixels[5, 25], [round(grey)] * 3)


def test_top_attention_is_outlined_inside_its_patches() -> None:
    boxes = np.array([[0, 0, 10, 10], [10, 0, 20, 10]])
    thumbnail = np.full((12, 24, 3), 200, np.uint8)
    pixels = draw_overlay(thumbnail, boxes, np.array([0.2, 1.8]), top_k=1)
    black = (pixels == TOP_COLOUR).all(axis=2)
    expected = np.zeros((12, 24), bool)
    expected[:10, 10:20] = True
    expected[1:9, 11:19] = False
    np.testing.assert_array_equal(black, expected)


def test_uniform_attention_is_one_everywhere() -> None:
    np.testing.assert_allclose(relative_attention(np.full(7, 1 / 7)), 1)
    np.testing.assert_allclose(relative_attention(np.zeros(3)), 1)


def test_thumbnails_are_never_finer_than_the_slide() -> None:
    assert thumbnail_mpp((1000, 500), 4.0, 640) == pytest.approx(6.25)
    assert thumbnail_mpp((100, 50), 4.0, 640) == 4.0


def test_white_glass_stays_white() -> None:
    thumbnail = np.full((8, 8, 3), 255, np.uint8)
    boxes = np.array([[0, 0, 2, 2], [2, 0, 4, 2]])
    overlay = draw_overlay(thumbnail, boxes, np.array([0.5, 1.5]))
    assert (overlay[4:] == 255).all()
