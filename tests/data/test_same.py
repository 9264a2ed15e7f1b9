"""What a store holds must have been made in one way, and tables are read as their owners mean."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.data.checkup import check_labels, estimate_work
from histotransfer_pl.data.cohort import SlideEntry, read_cohort, slides_from_cohort
from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.data.patches import PatchDataModule
from histotransfer_pl.errors import CohortError, ConfigError, SplitError, StoreMismatchError
from histotransfer_pl.records.grid import GridSettings, TissueSettings
from histotransfer_pl.slides.synthetic import paint_cohort, write_pyramid
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path

GRID = GridSettings(patch_px=64, mpp=0.5, tissue=TissueSettings(method="none"))
SQUARE = '{"type": "Polygon", "coordinates": [[[0, 0], [64, 0], [64, 64], [0, 64], [0, 0]]]}'


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in ("a", "b c"):
        write_pyramid(folder / f"{name}.tiff", np.full((256, 256, 3), 150, np.uint8), 0.5)
    return folder


def tile(slides: Path, **settings: object) -> PatchDataModule:
    store = slides.parent / str(settings.pop("store", "s.zarr"))
    data = PatchDataModule(store, slides=slides, grid=GRID, qc=False, **settings)  # type: ignore[arg-type]
    try:
        data.prepare_data()
    finally:
        data.teardown("predict")
    return data


def features(folder: Path, weights: list[str], labels: list[str], patients: list[str]) -> None:
    names = [f"s{number}" for number in range(len(labels))]
    table = {"slide_id": names, "patient_id": patients, "label": labels}
    pd.DataFrame(table).to_csv(folder / "c.csv", index=False)
    store = FeatureStore.open_or_create(folder / "f.zarr", {"patch_px": 32, "mpp": 1.0})
    with store.writing():
        for name, sha in zip(names, weights, strict=True):
            values = np.ones((3, 4), np.float32)
            facts = {"weights_sha256": sha}
            store.add_slide(name, None, 3).write(feature_path("e", "d"), values, facts)


def set_up(folder: Path, **settings: object) -> FeatureDataModule:
    data = FeatureDataModule(folder / "f.zarr", folder / "c.csv", n_folds=3, **settings)  # type: ignore[arg-type]
    data.setup("fit")
    return data


def test_features_of_two_networks_under_one_name_are_refused(tmp_path: Path) -> None:
    names = [f"p{number}" for number in range(6)]
    features(tmp_path, ["x"] * 4 + ["y"] * 2, ["0", "1"] * 3, names)
    with pytest.raises(StoreMismatchError, match=r"not made in one way .*weights y: 's4'"):
        set_up(tmp_path)


def test_words_need_to_be_told_which_makes_a_patient_positive(tmp_path: Path) -> None:
    owners = [f"p{number // 2}" for number in range(24)]
    labels = ["mss", "msi"] * 6 + ["mss"] * 12
    features(tmp_path, ["x"] * 24, labels, owners)
    with pytest.raises(ConfigError, match=r"classes msi and mss it must be said.*data\.positive"):
        set_up(tmp_path, bag="patient")
    bags = set_up(tmp_path, bag="patient", positive="msi").bags
    assert bags["label"].value_counts().to_dict() == {"msi": 6, "mss": 6}


def test_patient_bags_of_one_class_are_refused(tmp_path: Path) -> None:
    owners = [f"p{number // 2}" for number in range(18)]
    features(tmp_path, ["x"] * 18, ["0", "1"] * 9, owners)  # every patient is positive
    with pytest.raises(SplitError, match="no patient of class '0'"):
        set_up(tmp_path, bag="patient")


def test_a_common_resolution_is_for_slides_that_know_none(slides: Path) -> None:
    tile(slides, slide_mpp=0.25)
    store = FeatureStore.open(slides.parent / "s.zarr")
    assert store.slide("a").attributes["slide_mpp"] == 0.5  # as its file says


def test_another_resolution_or_outline_is_no_reason_to_skip(slides: Path) -> None:
    tile(slides)
    table = slides.parent / "c.csv"
    pd.DataFrame({"slide_id": ["a"], "mpp": [0.25]}).to_csv(table, index=False)
    again = tile(slides, cohort=table)
    assert "mpp: there 0.5, now 0.25" in again.outcomes["a"].reason
    masks = slides.parent / "masks"
    masks.mkdir()
    (masks / "b c.geojson").write_text(SQUARE)
    drawn = tile(slides, masks=masks)
    assert drawn.outcomes["a"].state == "skipped"
    assert "tissue outline: there none" in drawn.outcomes["b c"].reason
    assert tile(slides, masks=masks, store="new.zarr").outcomes["b c"].n_patches == 1
    assert tile(slides, masks=masks, store="new.zarr").outcomes["b c"].state == "skipped"


def test_outlines_that_fit_no_slide_are_refused(slides: Path) -> None:
    masks = slides.parent / "masks"
    with pytest.raises(ConfigError, match="no folder"):
        tile(slides, masks=masks)
    masks.mkdir()
    (masks / "A.geojson").write_text(SQUARE)
    with pytest.raises(ConfigError, match=r"no outline of any of the 2 slides.*a\.geojson"):
        tile(slides, masks=masks)


def test_further_ranks_leave_out_what_the_first_could_not_read(
    slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    tile(slides)
    (slides / "a.tiff").unlink()
    table = slides.parent / "c.csv"
    pd.DataFrame({"slide_id": ["a", "b c"]}).to_csv(table, index=False)
    first = tile(slides, cohort=table)
    failed = {name for name, found in first.outcomes.items() if found.state == "failed"}
    assert failed == {"a"}
    further = PatchDataModule(slides.parent / "s.zarr", slides=slides, cohort=table, grid=GRID)
    further.trainer = SimpleNamespace(  # type: ignore[assignment]
        strategy=SimpleNamespace(broadcast=lambda _: failed),
        lightning_module=SimpleNamespace(arrays=["features/e/d"]),
    )
    with FeatureStore.open(slides.parent / "s.zarr").writing("e"):
        further.setup("predict")
        further.teardown("predict")
    assert [item.entry.slide_id for item in further.work] == ["b c"]


def test_a_stray_space_makes_no_second_patient(tmp_path: Path) -> None:
    table = tmp_path / "c.csv"
    table.write_text("slide_id,patient_id,label\n a,P1,None\nb,P1 ,low\nc, ,NA\n")
    frame = read_cohort(table)
    assert frame["slide_id"].tolist() == ["a", "b", "c"]
    assert frame["patient_id"].tolist()[:2] == ["P1", "P1"]
    assert frame["patient_id"].isna().tolist() == [False, False, True]
    assert frame["label"].tolist()[:2] == ["None", "low"]  # a class may be called None
    assert frame["label"].isna().tolist() == [False, False, True]
    (finding,) = check_labels(table, "label", 3, None)
    assert finding.problem
    assert "no patient_id for 'c'" in finding.text


def test_linked_slides_and_empty_paths(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "y.svs").touch()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "y.svs").symlink_to(tmp_path / "archive" / "y.svs")
    table = tmp_path / "c.csv"
    table.write_text("slide_id,path\ny,y.svs\n")
    (entry,) = slides_from_cohort(table, tmp_path / "links")
    assert entry.path.exists()
    table.write_text("slide_id,path\ny,y.svs\nz,\n")
    with pytest.raises(CohortError, match="no path for 'z'"):
        slides_from_cohort(table, tmp_path / "links")


def test_the_estimate_outlives_a_damaged_slide(tmp_path: Path) -> None:
    paint_cohort(tmp_path, n_patients=2, slides_per_patient=1, seed=0, size_px=560)
    whole, damaged = sorted((tmp_path / "slides").iterdir())
    content = bytearray(damaged.read_bytes())
    content[len(content) // 4 :] = bytes(len(content) - len(content) // 4)
    damaged.write_bytes(content)
    entries = [SlideEntry("a", whole), SlideEntry("b", damaged)]
    findings, work = estimate_work(entries, GridSettings(patch_px=64, mpp=1.0), 2)
    assert [finding.problem for finding in findings] == [True, False]
    assert work is not None
