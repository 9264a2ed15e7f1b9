"""Tissue masks: from colours on made and real pictures, from outlines."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from histotransfer_pl.errors import ConfigError, SlideError
from histotransfer_pl.records.grid import TissueSettings
from histotransfer_pl.slides import tissue
from histotransfer_pl.slides.outlines import mask_from_geojson
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.slides.tissue import glass_colour, is_grey, tissue_mask

PINK = (220, 150, 190)
GLASS = (243, 242, 244)


def picture(seed: int = 0, noise: float = 1.5) -> NDArray[np.uint8]:
    """Glass of 200 x 240 px at 8 um with noise."""
    glass = np.broadcast_to(np.array(GLASS, float), (200, 240, 3))
    rng = np.random.default_rng(seed)
    return np.clip(glass + rng.normal(0, noise, glass.shape), 0, 255).astype(np.uint8)


def paint(
    rgb: NDArray[np.uint8], rows: slice, columns: slice, colour: tuple[int, int, int]
) -> None:
    rgb[rows, columns] = colour


def test_a_square_of_tissue_is_found_to_the_pixel() -> None:
    rgb = picture()
    paint(rgb, slice(40, 120), slice(50, 170), PINK)
    expected = np.zeros((200, 240), bool)
    expected[40:120, 50:170] = True
    np.testing.assert_array_equal(tissue_mask(rgb, 8.0), expected)


@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
def test_glass_alone_has_no_tissue(noise: float) -> None:
    assert not tissue_mask(picture(noise=noise), 8.0).any()


@pytest.mark.parametrize("glass", [(245, 240, 222), (235, 240, 248), (250, 250, 235)])
@pytest.mark.parametrize("noise", [0.0, 2.0, 4.0])
def test_tinted_glass_is_no_tissue_and_tissue_on_it_is_found(
    glass: tuple[int, int, int], noise: float
) -> None:
    rng = np.random.default_rng(0)
    rgb = np.clip(np.array(glass) + rng.normal(0, noise, (200, 240, 3)), 0, 255).astype(np.uint8)
    assert not tissue_mask(rgb, 8.0).any()
    found = glass_colour(rgb)
    assert found is not None
    assert np.abs(found - glass).max() <= 1
    paint(rgb, slice(40, 120), slice(50, 170), PINK)
    expected = np.zeros((200, 240), bool)
    expected[40:120, 50:170] = True
    np.testing.assert_array_equal(tissue_mask(rgb, 8.0), expected)


def test_glass_is_the_brightest_ground_that_was_scanned() -> None:
    rgb = picture(noise=1.0)
    paint(rgb, slice(0, 200), slice(0, 60), (255, 255, 255))  # not scanned
    paint(rgb, slice(0, 200), slice(60, 170), (225, 218, 222))  # a haze, more of it than of glass
    found = glass_colour(rgb)
    assert found is not None
    assert np.abs(found - GLASS).max() <= 1
    assert glass_colour(np.full((50, 60, 3), PINK, np.uint8)) is None


@pytest.mark.parametrize("counterstain", [(205, 210, 225), (190, 197, 218), (170, 178, 205)])
def test_a_pale_counterstain_is_found_beside_a_strong_stain(
    counterstain: tuple[int, int, int],
) -> None:
    rgb, stained = ihc(counterstain)
    found = tissue_mask(rgb, 8.0)
    assert (found != stained).mean() < 0.01


def test_the_palest_counterstain_needs_a_threshold() -> None:
    rgb, stained = ihc((222, 224, 232))
    assert tissue_mask(rgb, 8.0).mean() < 0.1  # the limit that the documents state
    settings = TissueSettings("threshold", saturation_threshold=0.03, fill_holes_um2=1e6)
    assert (tissue_mask(rgb, 8.0, settings) != stained).mean() < 0.05


def ihc(counterstain: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A disc of 43 % of the slide in a pale stain, with 4 % of brown in it, and where it is."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:512, :512]
    tissue: NDArray[np.bool_] = (x - 256) ** 2 + (y - 256) ** 2 < 190**2
    rgb = 243 + rng.normal(0, 2, (512, 512, 3))
    rgb[tissue] = np.array(counterstain) + rng.normal(0, 4, (tissue.sum(), 3))
    rgb[200:300, 200:300] = np.array((120, 80, 50)) + rng.normal(0, 8, (100, 100, 3))
    return np.clip(rgb, 0, 255).astype(np.uint8), tissue


@pytest.mark.parametrize("name", ["aperio", "tcga", "normal_slide"])
def test_thresholds_of_h_and_e_stay_otsus(request: pytest.FixtureRequest, name: str) -> None:
    thumbnail = open_slide(request.getfixturevalue(name), 0.5).thumbnail(8.0)
    plain = threshold_otsu(np.ptp(thumbnail, axis=2))  # type: ignore[no-untyped-call]
    found = tissue._threshold(tissue._colourfulness(thumbnail), TissueSettings())
    assert abs(255 * found - np.clip(plain, 255 * 0.05, 255 * 0.15)) <= 1


def test_background_at_the_edge_is_no_hole() -> None:
    rgb = np.full((100, 100, 3), PINK, np.uint8)
    for rows, columns in (((0, 5), (0, 9)), ((95, 100), (90, 100)), ((40, 50), (0, 5))):
        paint(rgb, slice(*rows), slice(*columns), GLASS)
    paint(rgb, slice(60, 70), slice(60, 70), GLASS)  # a hole
    expected = np.ones((100, 100), bool)
    expected[:5, :9] = expected[95:, 90:] = expected[40:50, :5] = False
    np.testing.assert_array_equal(tissue_mask(rgb, 8.0), expected)


def test_a_slide_without_colour_is_recognised() -> None:
    grey = picture(noise=0)
    grey[:] = 243
    paint(grey, slice(40, 120), slice(50, 170), (150, 150, 150))
    assert is_grey(grey)
    assert not tissue_mask(grey, 8.0).any()
    assert tissue_mask(grey, 8.0, TissueSettings("non_white", white_level=230)).mean() > 0.1
    coloured, dark, blank = grey.copy(), 255 - grey, np.full_like(grey, 243)
    paint(coloured, slice(40, 60), slice(50, 70), PINK)
    assert not any(is_grey(rgb) for rgb in (coloured, dark, blank))


@pytest.mark.parametrize("noise", [0, 25])
def test_tissue_alone_is_all_tissue(noise: int) -> None:
    rng = np.random.default_rng(0)
    rgb = np.full((100, 100, 3), PINK) + rng.integers(-noise, noise + 1, (100, 100, 1))
    rgb[:, :, 1] -= rng.integers(0, noise + 1, (100, 100))  # two strengths of eosin
    assert tissue_mask(np.clip(rgb, 0, 255).astype(np.uint8), 8.0).all()


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255)])
def test_plain_black_or_white_has_no_tissue(colour: tuple[int, int, int]) -> None:
    rgb = np.full((50, 60, 3), colour, np.uint8)
    assert not tissue_mask(rgb, 8.0).any()


def test_noise_of_near_black_pixels_is_no_tissue() -> None:
    rgb = np.random.default_rng(0).integers(0, 6, (100, 100, 3)).astype(np.uint8)
    assert not tissue_mask(rgb, 8.0).any()


@pytest.mark.parametrize(("side", "kept"), [(12, False), (13, True)])
def test_small_pieces_are_dropped(side: int, kept: bool) -> None:
    # 10,000 um2 at 8 um a pixel are 156.25 pixels: 12 x 12 is smaller, 13 x 13 is larger.
    rgb = picture()
    paint(rgb, slice(20, 20 + side), slice(30, 30 + side), PINK)
    assert tissue_mask(rgb, 8.0).any() == kept


@pytest.mark.parametrize(("side", "filled"), [(17, True), (18, False)])
def test_small_holes_are_filled(side: int, filled: bool) -> None:
    # 20,000 um2 are 312.5 pixels.
    rgb = picture()
    paint(rgb, slice(20, 150), slice(20, 150), PINK)
    paint(rgb, slice(60, 60 + side), slice(60, 60 + side), GLASS)
    assert tissue_mask(rgb, 8.0)[60 : 60 + side, 60 : 60 + side].all() == filled


def test_threshold_is_the_difference_of_channels() -> None:
    rgb = picture(noise=0)
    paint(rgb, slice(0, 100), slice(0, 240), (200, 170, 200))  # 30 / 255 = 0.118
    low = TissueSettings("threshold", saturation_threshold=0.11)
    high = TissueSettings("threshold", saturation_threshold=0.12)
    assert tissue_mask(rgb, 8.0, low).mean() == 0.5
    assert not tissue_mask(rgb, 8.0, high).any()


def test_non_white_keeps_grey_and_none_keeps_all() -> None:
    rgb = np.full((80, 80, 3), 255, np.uint8)
    rgb[10:40, 10:40] = 245
    mask = tissue_mask(rgb, 8.0, TissueSettings("non_white"))
    assert mask.sum() == 900
    assert tissue_mask(rgb, 8.0, TissueSettings("none")).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "'magic', expected otsu"),
        ({"mpp": 0.0}, "tissue mpp is 0.0"),
        ({"min_area_um2": -1.0}, "expected 0 or more"),
        ({"method": "threshold"}, r"saturation_threshold is None.*try 0\.1"),
        ({"method": "threshold", "saturation_threshold": 3.0}, "saturation_threshold is 3.0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TissueSettings(**settings)


def test_real_slide(aperio: Path) -> None:
    mask = tissue_mask(open_slide(aperio).thumbnail(8.0), 8.0)
    assert 0.30 < mask.mean() < 0.40
    assert mask[100, 70]  # epidermis
    assert not mask[20, 20]  # glass
    assert not mask[:5].any()


def test_fluorescence_keeps_the_stained_nuclei(data_root: Path) -> None:
    slide = open_slide(data_root / "wsi_real" / "test3-DAPI-2-387.ndpi")
    rgb = slide.thumbnail(8.0)
    mask = tissue_mask(rgb, 8.0)
    assert 0.1 < mask.mean() < 0.5
    assert rgb[mask][:, 2].mean() > 3 * rgb[~mask][:, 2].mean()


SQUARE = [[100, 200], [500, 200], [500, 600], [100, 600], [100, 200]]
HOLE = [[200, 300], [300, 300], [300, 400], [200, 400], [200, 300]]
FAR = [[700, 700], [2000, 700], [2000, 2000], [700, 2000], [700, 700]]
POLYGON = {"type": "Polygon", "coordinates": [SQUARE, HOLE]}
MULTI = {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [FAR]]}


def _feature(geometry: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "properties": {"objectType": "annotation"}, "geometry": geometry}


def _write(folder: Path, value: object) -> Path:
    path = folder / "tissue.geojson"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "value",
    [
        MULTI,
        _feature(MULTI),
        [_feature(POLYGON), _feature({"type": "Polygon", "coordinates": [FAR]})],
        {"type": "FeatureCollection", "features": [_feature(MULTI), _feature(POLYGON)]},
        {
            "type": "GeometryCollection",
            "geometries": [MULTI, {"type": "Point", "coordinates": [5, 5]}],
        },
    ],
)
def test_outlines_in_every_wrapping(tmp_path: Path, value: object) -> None:
    mask = mask_from_geojson(_write(tmp_path, value), (100, 120), 10.0)
    expected = np.zeros((100, 120), bool)
    expected[20:60, 10:50] = True
    expected[30:40, 20:30] = False
    expected[70:100, 70:120] = True
    np.testing.assert_array_equal(mask, expected)


def test_outline_of_a_circle_has_its_area(tmp_path: Path) -> None:
    angle = np.linspace(0, 2 * np.pi, 720)
    ring = np.stack([600 + 317 * np.cos(angle), 500 + 317 * np.sin(angle)], 1).tolist()
    path = _write(tmp_path, {"type": "Polygon", "coordinates": [ring]})
    mask = mask_from_geojson(path, (200, 240), 5.0)
    assert mask.sum() * 25 == pytest.approx(np.pi * 317**2, rel=0.005)
    rows, columns = np.nonzero(mask)
    assert (columns.mean() + 0.5) * 5 == pytest.approx(600, abs=1)
    assert (rows.mean() + 0.5) * 5 == pytest.approx(500, abs=1)


def test_outline_beside_the_slide_marks_nothing(tmp_path: Path) -> None:
    path = _write(tmp_path, {"type": "Polygon", "coordinates": [FAR]})
    assert not mask_from_geojson(path, (50, 50), 10.0).any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", r"tissue\.geojson is not GeoJSON .*export the annotations from QuPath"),
        ('{"kind": "Polygon"}', "is not GeoJSON"),
        ('{"type": "Polygon", "coordinates": [[1, 2]]}', "is not GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "has no Polygon or MultiPolygon"),
        ('{"type": "Point", "coordinates": [1, 2]}', "has no Polygon or MultiPolygon"),
    ],
)
def test_files_that_outline_nothing(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tissue.geojson"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SlideError, match=message):
        mask_from_geojson(path, (10, 10), 1.0)


def test_missing_outline(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="cannot be read: No such file"):
        mask_from_geojson(tmp_path / "none.geojson", (10, 10), 1.0)
