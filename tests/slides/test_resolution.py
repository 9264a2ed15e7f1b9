"""Where a slide's resolution comes from, and when it is refused."""

import math
from pathlib import Path

import pytest

from histotransfer_pl.errors import MissingMppError, SlideError
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.slides.resolution import slide_resolution

HALF = {"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.5"}
FINE_TIFF = {"tiff.XResolution": "40000", "tiff.YResolution": "40000"}


@pytest.mark.parametrize(
    ("properties", "given", "expected"),
    [
        (HALF, None, 0.5),
        (HALF, 0.25, 0.25),
        ({}, 0.25, 0.25),
        (HALF, 352.8, 352.8),
        ({"openslide.mpp-x": "0.2", "openslide.mpp-y": "0.202"}, None, 0.201),
        ({**FINE_TIFF, "tiff.ResolutionUnit": "centimeter"}, None, 0.25),
        ({**FINE_TIFF, "tiff.ResolutionUnit": "inch"}, None, 0.635),
        ({**FINE_TIFF, **HALF, "tiff.ResolutionUnit": "inch"}, None, 0.5),
    ],
)
def test_user_then_properties_then_tiff(
    properties: dict[str, str], given: float | None, expected: float
) -> None:
    assert slide_resolution(Path("a.svs"), properties, given) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({}, r"a\.svs: the file does not say .* column 'mpp' or with --data\.slide_mpp"),
        ({"openslide.objective-power": "40"}, "its objective is 40x; 40x is mostly near 0.25"),
        ({**FINE_TIFF, "tiff.ResolutionUnit": "none"}, "the file does not say"),
        ({"openslide.mpp-x": "1000", "openslide.mpp-y": "1000"}, "says 1000 x 1000 .* 0.05 to 20"),
        ({"openslide.mpp-x": "0.01", "openslide.mpp-y": "0.01"}, "says 0.01 x 0.01"),
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"}, "expected square pixels"),
    ],
)
def test_unknown_or_absurd(properties: dict[str, str], message: str) -> None:
    with pytest.raises(MissingMppError, match=message):
        slide_resolution(Path("a.svs"), properties, None)


@pytest.mark.parametrize("given", [0.0, -1.0, math.nan, math.inf])
def test_given_number_must_be_a_resolution(given: float) -> None:
    with pytest.raises(MissingMppError, match="expected a positive number"):
        slide_resolution(Path("a.svs"), HALF, given)


def test_real_slide_without_mpp_asks_for_it_and_works_with_it(tcga: Path) -> None:
    with pytest.raises(MissingMppError, match=r"tcga-cr-7395-01a-01-ts1\.svs: .*column 'mpp'"):
        open_slide(tcga)
    slide = open_slide(tcga, mpp=0.25)
    assert slide.mpp == 0.25
    assert slide.thumbnail(8.0).shape == (112, 139, 3)


def test_absurd_mpp_of_a_file_is_a_slide_error(data_root: Path) -> None:
    with pytest.raises(SlideError, match=r"boxes\.tiff: .* says 352\.778 x 352\.778"):
        open_slide(data_root / "wsi_real" / "format_fixtures" / "boxes.tiff")
