"""Whole slides to patches: real ones against their labels, painted ones, and empty ones."""

import csv
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histotransfer_pl.errors import SlideError
from histotransfer_pl.records.grid import GridSettings, TissueSettings
from histotransfer_pl.report.geojson import attention_geojson
from histotransfer_pl.slides import tiling
from histotransfer_pl.slides.outlines import qupath_origin
from histotransfer_pl.slides.qc import draw_qc, picture_factor, sharp_thumbnail, tissue_covered
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.slides.scale_bar import draw_scale_bar, round_length_um
from histotransfer_pl.slides.synthetic import write_pyramid
from histotransfer_pl.slides.tiling import tile_slide

IDC_GRID = GridSettings(50, 4.0, tissue=TissueSettings("non_white"))


def test_labelled_tiles_of_real_slides_are_found_and_nothing_else(data_root: Path) -> None:
    labelled: dict[str, set[tuple[int, int]]] = defaultdict(set)
    with (data_root / "idc_breast" / "tiles.csv").open() as file:
        for row in csv.DictReader(file):
            labelled[row["slide_id"]].add((int(row["x"]), int(row["y"])))
    for slide_id in sorted(labelled)[::18]:  # 20 slides from all over the table
        reader = open_slide(data_root / "idc_breast" / "slides" / f"{slide_id}.tif")
        found = {(x, y) for x, y in tile_slide(reader, IDC_GRID).coords.tolist()}
        assert found == labelled[slide_id], slide_id


def test_real_slide_at_two_resolutions(aperio: Path) -> None:
    reader = open_slide(aperio)
    fine = tile_slide(reader, GridSettings(224, 0.5))
    coarse = tile_slide(reader, GridSettings(224, 1.0))
    assert len(fine.coords) == 45
    assert coarse.patch_size_level0 == 2 * fine.patch_size_level0
    assert len(coarse.coords) < 45 / 2
    assert (fine.tissue_fraction >= 0.5).all()
    assert fine.tissue_fraction.shape == (45,)
    assert (fine.coords + fine.patch_size_level0 <= fine.dimensions_level0).all()


def test_more_tissue_asked_for_is_a_part_of_less(aperio: Path) -> None:
    reader = open_slide(aperio)
    kept = [
        {tuple(place) for place in tile_slide(reader, GridSettings(min_tissue=share)).coords}
        for share in (0.0, 0.1, 0.5, 0.9)
    ]
    assert kept[3] < kept[2] < kept[1] < kept[0]
    assert len(kept[0]) == (2220 // 224) * (2967 // 224)


def test_slide_without_mpp_tiles_when_it_is_given(tcga: Path) -> None:
    at_quarter = tile_slide(open_slide(tcga, mpp=0.25), GridSettings())
    at_half = tile_slide(open_slide(tcga, mpp=0.5), GridSettings())
    assert len(at_quarter.coords) == 47
    assert at_quarter.patch_size_level0 == 448
    assert len(at_half.coords) > 4 * 47  # a patch is 112 um, the slide now twice as large


def test_outlines_replace_the_tissue_found(aperio: Path, tmp_path: Path) -> None:
    ring = [[0, 0], [600, 0], [600, 500], [0, 500], [0, 0]]  # glass only
    path = tmp_path / "mine.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}), encoding="utf-8")
    tiled = tile_slide(open_slide(aperio), GridSettings(224, 0.499), tissue_geojson=path)
    # The third column holds 152 of 224 px of the outline, the third row only 52.
    assert tiled.coords.tolist() == [[x, y] for y in (0, 224) for x in (0, 224, 448)]


def test_outlines_start_where_qupath_starts(aperio: Path, tmp_path: Path) -> None:
    ring = [[0, 0], [448, 0], [448, 224], [0, 224], [0, 0]]
    path = tmp_path / "mine.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}), encoding="utf-8")
    reader = open_slide(aperio)
    # As a scanner with an empty rim writes it; QuPath does not show the rim.
    rim = {"openslide.bounds-x": "672", "openslide.bounds-y": "896"}
    reader.qupath_origin = qupath_origin({**reader.properties, **rim})
    tiled = tile_slide(reader, GridSettings(224, 0.499), tissue_geojson=path)
    assert tiled.coords.tolist() == [[672, 896], [896, 896]]
    back = attention_geojson(tiled.coords, 224, np.ones(2), 0, reader.qupath_origin)
    assert back["features"][0]["geometry"]["coordinates"][0][0] == [0, 0]


@pytest.mark.parametrize(("mpp", "enlarged"), [(0.454, False), (0.453, True), (0.0499, True)])
def test_a_slide_coarser_than_its_patches_is_refused(
    aperio: Path, mpp: float, enlarged: bool
) -> None:
    reader = open_slide(aperio)
    if enlarged:
        factor = {0.453: r"1\.1", 0.0499: "10"}[mpp]
        message = (
            rf"0\.499 um per pixel: .* at {mpp} um would be enlarged {factor} times; .*allow_enl"
        )
        with pytest.raises(SlideError, match=message):
            tile_slide(reader, GridSettings(224, mpp))
    assert len(tile_slide(reader, GridSettings(224, mpp, allow_enlarging=True)).coords) > 0


def test_the_permission_to_enlarge_makes_no_other_store() -> None:
    allowed = GridSettings(allow_enlarging=True)
    assert allowed.for_store() == GridSettings().for_store() == GridSettings().to_json()
    assert "allow_enlarging" not in GridSettings().to_json()
    assert GridSettings.from_json(allowed.to_json()) == allowed


def test_a_grid_that_no_memory_holds_is_refused(aperio: Path) -> None:
    grid = GridSettings(224, 1e-7, allow_enlarging=True)
    with pytest.raises(SlideError, match=r"a grid of patches of 224 px at 1e-07 um would take"):
        tile_slide(open_slide(aperio), grid)


@pytest.mark.parametrize("error", [MemoryError, TypeError, ValueError])
def test_whatever_goes_wrong_with_a_slide_names_it(
    aperio: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise error("odd")

    monkeypatch.setattr(tiling, "tissue_mask", fail)
    with pytest.raises(SlideError, match=rf"CMU-1-Small-Region\.svs .*{error.__name__}: odd"):
        tile_slide(open_slide(aperio), GridSettings())


def test_tissue_of_a_coarse_slide_is_sought_at_its_own_resolution(data_root: Path) -> None:
    reader = open_slide(data_root / "idc_breast" / "slides" / "10253_r0.tif")
    tissue = TissueSettings("non_white", mpp=2.0)
    tiled = tile_slide(reader, GridSettings(50, 4.0, tissue=tissue))
    assert tiled.thumbnail_mpp == 4.0
    assert tiled.thumbnail.shape[:2] == (1050, 1150)


def test_slide_smaller_than_a_patch_is_a_result(data_root: Path) -> None:
    reader = open_slide(data_root / "wsi_real" / "format_fixtures" / "small.svs")
    tiled = tile_slide(reader, GridSettings())
    assert tiled.coords.shape == (0, 2)
    assert tiled.reason == "slide of 16 x 16 px is smaller than a patch of 224 px"
    assert draw_qc(tiled).width > 100


def test_slide_without_tissue_is_a_result(tmp_path: Path) -> None:
    path = tmp_path / "glass.tiff"
    write_pyramid(path, np.full((700, 900, 3), 243, np.uint8), 0.5)
    tiled = tile_slide(open_slide(path), GridSettings())
    assert tiled.coords.shape == (0, 2)
    assert tiled.reason == "no tissue found (method otsu)"


def test_a_slide_without_colour_is_told_what_to_set(tmp_path: Path) -> None:
    grey = np.full((700, 900, 3), 243, np.uint8)
    grey[100:500, 200:700] = 150
    path = tmp_path / "grey.tiff"
    write_pyramid(path, grey, 0.5)
    tiled = tile_slide(open_slide(path), GridSettings())
    assert "the slide has no colour; set tissue.method to non_white" in tiled.reason
    tissue = TissueSettings("non_white", white_level=230)
    assert len(tile_slide(open_slide(path), GridSettings(100, tissue=tissue)).coords) == 20


def test_too_little_tissue_is_a_result(normal_slide: Path) -> None:
    tiled = tile_slide(open_slide(normal_slide), GridSettings(1000, 0.5, min_tissue=1.0))
    assert tiled.reason == "no patch holds 100% of tissue"


@pytest.mark.parametrize("name", ["aperio", "normal_slide"])
def test_picture_shows_outline_patches_and_counts(
    name: str, request: pytest.FixtureRequest
) -> None:
    with open_slide(request.getfixturevalue(name)) as reader:
        tiled, sharp = tile_slide(reader, GridSettings()), sharp_thumbnail(reader)
    picture = np.asarray(draw_qc(tiled, name, sharp))
    assert 1200 < max(picture.shape) < 2000
    for colour in ((0, 110, 45), (20, 60, 220)):
        assert (picture == colour).all(axis=2).sum() > 500
    head = 76  # title and facts
    assert (picture[:head] < 100).any()
    # Glass that no patch covers is paled, tissue inside patches keeps its colour and sharpness.
    factor = picture_factor(tiled.dimensions_level0)
    width, height = (round(side * factor) for side in tiled.dimensions_level0)
    wanted = np.asarray(Image.fromarray(sharp).resize((width, height), Image.Resampling.LANCZOS))
    for place in (len(tiled.coords) // 2, len(tiled.coords) // 3):
        x, y = ((tiled.coords[place] + tiled.patch_size_level0 / 2) * factor).astype(int)
        around = np.s_[y - 8 : y + 8, x - 8 : x + 8]
        drawn = picture[head:][around]
        # An outline may pass through.
        assert (drawn == wanted[around]).mean() > 0.9


@pytest.mark.parametrize(
    ("dimensions", "longest"),
    [((256, 100), 640), ((700, 1000), 1000), ((100_000, 80_000), 1600)],
)
def test_a_picture_is_as_large_as_its_slide_within_bounds(
    dimensions: tuple[int, int], longest: int
) -> None:
    assert picture_factor(dimensions) * max(dimensions) == pytest.approx(longest)


def test_the_share_of_tissue_in_patches_is_counted_in_pixels(normal_slide: Path) -> None:
    tiled = tile_slide(open_slide(normal_slide), GridSettings())
    scale, inside = tiled.slide_mpp / tiled.thumbnail_mpp, 0
    rows, columns = np.nonzero(tiled.mask)
    for row, column in zip(rows, columns, strict=True):
        x, y = column / scale, row / scale
        hit = (tiled.coords <= (x, y)) & ((x, y) < tiled.coords + tiled.patch_size_level0)
        inside += bool(hit.all(axis=1).any())
    assert tissue_covered(tiled) == pytest.approx(inside / len(rows), abs=0.02)
    empty = replace(tiled, coords=np.empty((0, 2), np.int32))
    assert tissue_covered(empty) == 0.0


def test_scale_bars_are_round_and_as_long_as_they_say() -> None:
    picture = draw_scale_bar(Image.new("RGB", (1000, 600), (250, 200, 220)), mpp=0.7)
    assert round_length_um(700.0, 0.3) == 200.0
    dark = (np.asarray(picture) < 60).all(axis=2)
    assert dark.sum(axis=1).max() == round(200 / 0.7)
