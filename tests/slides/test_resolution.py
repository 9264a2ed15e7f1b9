"""Where a slide's resolution comes from, and when it is refused."""

import math
from pathlib import Path

import pytest
import tifffile

from histotransfer_pl.errors import MissingMppError, SlideError
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.slides.resolution import slide_resolution
from tests.slides.tiffs import tissue

HALF = {"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.5"}
FINE_TIFF = {"tiff.XResolution": "40000", "tiff.YResolution": "40000"}


@pytest.mark.parametrize(
    ("properties", "given", "expected"),
    [
        (HALF, None, 0.5),
        (HALF, 0.25, 0.25),
        ({}, 0.25, 0.25),
        (HALF, 20.0, 20.0),
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
        ({"openslide.mpp-x": "half", "openslide.mpp-y": "0.5"}, "says nan x 0.5"),
        (
            {"tiff.XResolution": "?", "tiff.YResolution": "1", "tiff.ResolutionUnit": "inch"},
            "not say",
        ),
    ],
)
def test_unknown_or_absurd(properties: dict[str, str], message: str) -> None:
    with pytest.raises(MissingMppError, match=message):
        slide_resolution(Path("a.svs"), properties, None)


@pytest.mark.parametrize("given", [0.0, -1.0, math.nan, math.inf, 250, 352.8, 1e300, 0.00025, 20.1])
def test_given_number_must_be_a_resolution(given: float) -> None:
    with pytest.raises(
        MissingMppError, match=r"a\.svs: mpp given as .* expected 0.05 to 20.0 micro"
    ):
        slide_resolution(Path("a.svs"), HALF, given)


@pytest.mark.parametrize(
    ("size", "unit"), [(0.5, "µm"), (0.5, None), (500.0, "nm"), (0.0005, "mm"), (0.5, "\u03bcm")]
)
def test_an_ome_tiff_says_it_in_its_description(
    tmp_path: Path, size: float, unit: str | None
) -> None:
    path = tmp_path / "a.ome.tif"
    metadata: dict[str, object] = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size}
    if unit is not None:
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as tiff:
        tiff.write(tissue(128, 128), tile=(64, 64), photometric="rgb", metadata=metadata)
    assert open_slide(path).mpp == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ('PhysicalSizeX="0.5" PhysicalSizeY="0.5"', 0.5),
        (
            "PhysicalSizeY='250' PhysicalSizeX='250' PhysicalSizeXUnit='nm' PhysicalSizeYUnit='nm'",
            0.25,
        ),
        ('PhysicalSizeX="0.4" PhysicalSizeXUnit="&#181;m" PhysicalSizeY="0.4"', 0.4),
        ('PhysicalSizeX="3" PhysicalSizeY="3" PhysicalSizeXUnit="reference frame"', 0.635),
        ('PhysicalSizeX="0.5"', 0.635),
        ("", 0.635),
    ],
)
def test_an_ome_description_wins_over_the_tiff_resolution(attributes: str, expected: float) -> None:
    for prefix in ("", "ome:"):
        pixels = f'<Image>\n<{prefix}Pixels {attributes} SizeX="9"/></Image>'
        said = {**FINE_TIFF, "tiff.ResolutionUnit": "inch"}
        said["tiff.ImageDescription"] = f'<?xml version="1.0"?>\n<{prefix}OME x="y">{pixels}'
        assert slide_resolution(Path("a.tif"), said, None) == pytest.approx(expected)


def test_real_slide_without_mpp_asks_for_it_and_works_with_it(tcga: Path) -> None:
    with pytest.raises(MissingMppError, match=r"tcga-cr-7395-01a-01-ts1\.svs: .*column 'mpp'"):
        open_slide(tcga)
    slide = open_slide(tcga, mpp=0.25)
    assert slide.mpp == 0.25
    assert slide.thumbnail(8.0).shape == (112, 139, 3)


def test_absurd_mpp_of_a_file_is_a_slide_error(data_root: Path) -> None:
    with pytest.raises(SlideError, match=r"boxes\.tiff: .* says 352\.778 x 352\.778"):
        open_slide(data_root / "wsi_real" / "format_fixtures" / "boxes.tiff")
