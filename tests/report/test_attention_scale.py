"""The one scale of attention: symmetric, pale in the middle, even to the eye, darker for more."""

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from histotransfer_pl.report.attention_scale import ATTENTION_COLOURS, AttentionScale, top_attention


def test_the_scale_is_symmetric_in_the_logarithm() -> None:
    scale = AttentionScale(limit=16)
    assert scale.position(np.array([1.0, 4.0, 16.0, 1e9])).tolist() == [0.5, 0.75, 1.0, 1.0]
    ratio = np.geomspace(1 / 16, 16, 33)
    np.testing.assert_allclose(scale.position(ratio) + scale.position(1 / ratio), 1, atol=1e-12)
    assert [place for place, _ in scale.ticks()] == [0, 0.25, 0.5, 0.75, 1]


def test_a_flat_map_is_pale() -> None:
    red, green, blue = AttentionScale().colours(np.ones(1))[0].astype(int)
    assert min(red, green, blue) > 210
    assert max(red, green, blue) - min(red, green, blue) <= 2


def test_equal_ratios_look_equally_far_apart() -> None:
    colours = ATTENTION_COLOURS(np.linspace(0, 1, 257))[:, :3]
    lab = rgb2lab(colours[None])[0]
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    for half in (steps[:128], steps[128:]):
        assert np.ptp(half) / half.mean() < 0.1


def test_more_attention_is_darker_also_in_grey() -> None:
    colours = AttentionScale().colours(np.geomspace(1 / 16, 16, 33))  # (33, 3)
    grey = np.array(Image.fromarray(colours[None]).convert("L"), int)[0]  # (33,)
    assert (np.diff(grey) < 0).all()
    assert grey[0] - grey[16] > 20
    assert grey[16] - grey[-1] > 80


@pytest.mark.parametrize(
    ("relative", "most", "expected"),
    [
        (np.ones(100), 64, []),  # a flat map has no top
        (np.r_[np.full(99, 0.5), 50.5], 64, [99]),
        (np.r_[np.full(90, 0.1), np.linspace(2, 11, 10)], 64, [95, 96, 97, 98, 99]),
        (np.r_[np.full(90, 0.1), np.linspace(2, 11, 10)], 2, [98, 99]),
        (np.r_[np.full(90, 0.1), np.full(10, 9.1)], 64, []),  # ten equals are not five
        (np.r_[np.full(90, 0.1), np.linspace(2, 11, 10)], 0, []),
        (np.array([1.0]), 1, []),
    ],
)
def test_top_attention_is_above_uniform_and_a_small_share(
    relative: np.ndarray, most: int, expected: list[int]
) -> None:
    assert np.flatnonzero(top_attention(relative, most)).tolist() == expected
