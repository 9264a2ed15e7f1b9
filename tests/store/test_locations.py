"""A slide's file is found from any working folder, and after a move of the project."""

import shutil
from pathlib import Path

import pytest

from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.locations import find_path, record_path

from .conftest import GRID


def test_a_location_does_not_depend_on_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for typed in ("slides/a.svs", "./slides/a.svs", str(tmp_path / "slides/a.svs")):
        recorded = record_path(typed, "out/s.zarr")
        assert recorded == str(tmp_path / "slides/a.svs")
        assert record_path(typed, "s.zarr") == "./../slides/a.svs"
    monkeypatch.chdir("/")
    assert find_path("./../slides/a.svs", str(tmp_path / "s.zarr")) == f"{tmp_path}/slides/a.svs"


def test_a_moved_project_finds_its_slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    store = FeatureStore.open_or_create("s.zarr", GRID)
    with store.writing():
        store.add_slide("a", None, 3, {"path": "slides/a.svs"})
    assert store.slide("a").attributes["path"] == str(tmp_path / "old/slides/a.svs")
    monkeypatch.chdir("/")
    shutil.move(tmp_path / "old", tmp_path / "new")
    moved = FeatureStore.open(tmp_path / "new/s.zarr")
    assert moved.slide("a").attributes["path"] == str(tmp_path / "new/slides/a.svs")
    assert moved.verify() == []


def test_a_location_is_renewed(tmp_path: Path) -> None:
    store = FeatureStore.open_or_create(tmp_path / "p/s.zarr", GRID)
    with store.writing():
        slide = store.add_slide("a", None, 3, {"path": "/data/a.svs", "mpp": 0.5})
        slide.renew({"path": str(tmp_path / "p/a.svs"), "fingerprint": {"size": 1}})
        assert slide.attributes["fingerprint"] == {"size": 1}
    again = FeatureStore.open(tmp_path / "p/s.zarr").slide("a").attributes
    assert again == {
        "slide_id": "a",
        "n_patches": 3,
        "path": str(tmp_path / "p/a.svs"),
        "mpp": 0.5,
        "fingerprint": {"size": 1},
    }
    assert store.verify() == []


def test_a_path_of_an_older_store_is_looked_for_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides/a.svs").touch()
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert find_path("slides/a.svs", str(tmp_path / "s.zarr")) == f"{tmp_path}/slides/a.svs"
    assert find_path("slides/b.svs", str(tmp_path / "s.zarr")) == f"{tmp_path}/else/slides/b.svs"
    assert find_path("s3://b/a.svs", "s3://b/s.zarr") == "s3://b/a.svs"
    assert record_path("s3://b/a.svs", "s3://b/s.zarr") == "s3://b/a.svs"
