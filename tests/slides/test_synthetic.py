"""The painted cohort: repeatable, readable, and its classes differ in texture, not in colour."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.slides.outlines import fill_polygon, mask_from_geojson
from histotransfer_pl.slides.painting import mix_stain, paint_section
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.slides.synthetic import paint_cohort
from histotransfer_pl.slides.tiling import tile_slide


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_table_slides_and_truth(painted: Path) -> None:
    with (painted / "cohort.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [tuple(row.values()) for row in rows] == [
        ("patient_00_slide_0", "slides/patient_00_slide_0.tiff", "patient_00", "normal"),
        ("patient_00_slide_1", "slides/patient_00_slide_1.tiff", "patient_00", "tumour"),
    ]
    for row in rows:
        slide = open_slide(painted / row["path"])
        assert (slide.mpp, slide.dimensions_level0) == (0.5, (1104, 1104))
        assert list(slide.level_downsamples) == [1, 4, 16]
        truth = painted / "truth" / f"{row['slide_id']}.geojson"
        assert truth.exists() == (row["label"] == "tumour")


def test_same_settings_paint_the_same_bytes(painted: Path, tmp_path: Path) -> None:
    paint_cohort(tmp_path / "again", 1, 2, seed=0, size_px=1104)
    assert _digests(tmp_path / "again") == _digests(painted)
    paint_cohort(tmp_path / "other", 1, 1, seed=1, size_px=1104)
    name = "slides/patient_00_slide_0.tiff"
    assert _digests(tmp_path / "other")[name] != _digests(painted)[name]


def test_painted_folder_is_left_as_it_is(painted: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in painted.rglob("*")}
    assert paint_cohort(painted, 1, 2, seed=0, size_px=1104) == painted / "cohort.csv"
    assert {path: path.stat().st_mtime_ns for path in painted.rglob("*")} == before


def test_interrupted_painting_is_finished(tmp_path: Path) -> None:
    table = paint_cohort(tmp_path, 1, 1, seed=3, size_px=512)
    before = _digests(tmp_path)
    table.unlink()
    (tmp_path / "slides" / "patient_00_slide_0.tiff").write_bytes(b"half")
    paint_cohort(tmp_path, 1, 1, seed=3, size_px=512)
    assert _digests(tmp_path) == before


def test_folders_of_something_else_are_refused(painted: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds a cohort painted with .*asked for"):
        paint_cohort(painted, 1, 2, seed=5, size_px=1104)
    (tmp_path / "cohort.csv").write_text("slide_id\n")
    with pytest.raises(ConfigError, match="was not painted here; give another folder"):
        paint_cohort(tmp_path, 1, 1)


@pytest.mark.parametrize(
    "values", [(0, 1, 0, 2688), (1, 0, 0, 2688), (1, 1, -1, 2688), (1, 1, 0, 99)]
)
def test_impossible_cohorts(tmp_path: Path, values: tuple[int, int, int, int]) -> None:
    with pytest.raises(ConfigError, match="expected at least 1, 1, 0 and 512"):
        paint_cohort(tmp_path, *values)


def test_a_default_slide_has_enough_patches_and_some_of_them_tumour(tmp_path: Path) -> None:
    paint_cohort(tmp_path, 1, 2)
    reader = open_slide(tmp_path / "slides" / "patient_00_slide_1.tiff")
    tiled = tile_slide(reader, GridSettings())
    assert 40 <= len(tiled.coords) <= 120
    truth = mask_from_geojson(
        tmp_path / "truth" / "patient_00_slide_1.geojson", tiled.mask.shape, 16.0
    )
    centres = (tiled.coords + 112) // 16
    share = truth[centres[:, 1], centres[:, 0]].mean()
    assert 0.05 < share < 0.5
    assert tiled.mask[truth].mean() > 0.9  # foci lie in tissue


def _in_and_outside_of_foci(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels (n, 3) of tumour foci, and of the same places painted without tumour."""
    stain = mix_stain(np.random.default_rng(seed))
    sick = paint_section(np.random.default_rng(seed), 1200, stain, tumour=True)
    sound = paint_section(np.random.default_rng(seed), 1200, stain, tumour=False)
    assert not sound.foci
    mask = np.zeros((1200, 1200), bool)
    for outline in sick.foci:
        fill_polygon(mask, [outline])
    return sick.rgb[mask], sound.rgb[mask]


def test_foci_differ_little_in_colour_and_much_in_texture() -> None:
    gaps = []
    for seed in range(3):
        sick, sound = _in_and_outside_of_foci(seed)
        gaps.append(sick.mean(axis=0) - sound.mean(axis=0))
        # Nuclei as close as in normal tissue would darken a focus by 3 to 5 grey levels.
        assert np.abs(gaps[-1]).max() < 2.5
        assert np.abs(sick.astype(int) - sound).mean() > 10
    stains = [mix_stain(np.random.default_rng(seed)) for seed in range(8)]
    light = [255 * np.exp(-0.6 * stain.eosin - 0.3 * stain.haematoxylin) for stain in stains]
    # Between patients the same mean differs by far more than between the classes.
    assert np.std(light, axis=0).max() > 3 * np.abs(gaps).max()


def test_patients_differ_in_stain_and_slides_of_one_do_not() -> None:
    first, again, other = (mix_stain(np.random.default_rng([0, patient])) for patient in (0, 0, 1))
    np.testing.assert_array_equal(first.eosin, again.eosin)
    assert np.abs(first.eosin - other.eosin).max() > 0.02


def test_a_rare_focus_is_one_and_small(tmp_path: Path) -> None:
    stain = mix_stain(np.random.default_rng(0))
    usual, rare = (
        paint_section(np.random.default_rng(0), 1200, stain, tumour=True, **foci)
        for foci in ({"n_foci": 2}, {"n_foci": 1, "focus_scale": 0.4})
    )
    assert (len(usual.foci), len(rare.foci)) == (2, 1)
    np.testing.assert_allclose(np.ptp(rare.foci[0]) / 0.4, np.ptp(usual.foci[0]), rtol=0.5)
    with pytest.raises(ConfigError, match="at least one focus"):
        paint_cohort(tmp_path, n_foci=0)
