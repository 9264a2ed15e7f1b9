"""Opening, creating, listing and adding: what fits is reused, what differs is named."""

import json
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histotransfer_pl.errors import StoreError, StoreMismatchError
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import LOCK, PARTIAL, encode_key, feature_path

from .conftest import ATTENTION, FEATURES, GRID, SELECTION, SLIDES, TISSUE, coords_of, features_of


def test_what_was_written_is_read(store: FeatureStore) -> None:
    again = FeatureStore.open(store.path)
    assert again.grid == GRID
    assert again.slide_ids() == sorted(SLIDES)
    for slide_id, n_patches in SLIDES.items():
        slide = again.slide(slide_id)
        assert slide.n_patches == n_patches
        assert slide.attributes == {"mpp": 0.25, "slide_id": slide_id, "n_patches": n_patches}
        assert slide.arrays() == [ATTENTION, FEATURES, SELECTION]
        assert np.array_equal(slide.coords(), coords_of(slide_id))
        assert np.array_equal(slide.read(FEATURES), features_of(slide_id))
        assert slide.read(FEATURES).dtype == np.float16
    info = again.slide("a").info(FEATURES)
    assert info.shape == (17, 6)
    assert info.dtype == np.float16
    assert info.attributes["weights_sha256"] == "ab"


def test_membership(store: FeatureStore) -> None:
    assert "a" in store
    assert "case 2/slide.svs" in store
    assert "b" not in store
    assert "" not in store
    assert 3 not in store


def test_a_store_pickles_as_its_location(store: FeatureStore) -> None:
    slide = pickle.loads(pickle.dumps(store.slide("a")))
    assert np.array_equal(slide.read(FEATURES), features_of("a"))


@pytest.mark.parametrize(
    ("slide_id", "array", "message"),
    [
        ("b", FEATURES, "no slide 'b' in .* it holds 3, nearest"),
        ("a", feature_path("net", "layer4"), "'a', features/net/layer4 does not exist: .*hf-hub"),
        ("a", "features/../x", "make it with feature_path"),
    ],
)
def test_what_is_not_there_is_named(
    store: FeatureStore, slide_id: str, array: str, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        store.slide(slide_id).read(array)


@pytest.mark.parametrize(
    ("grid", "differs"),
    [
        ({**GRID, "mpp": 0.25}, "grid.mpp: the store has 0.5, asked for 0.25"),
        (
            {**GRID, "tissue": {"method": "none", "saturation_threshold": 7}},
            "grid.tissue.method: the store has 'otsu', asked for 'none'; "
            "grid.tissue.saturation_threshold: the store has None, asked for 7",
        ),
        ({**GRID, "overlap_px": 8}, "grid.overlap_px: the store has nothing, asked for 8"),
        (None, "grid: the store has nothing, asked for None"),
    ],
)
def test_another_grid_is_an_error_that_lists_it(
    store: FeatureStore, grid: dict[str, Any] | None, differs: str
) -> None:
    with pytest.raises(StoreMismatchError, match="another patch grid") as caught:
        FeatureStore.open_or_create(store.path, grid)
    assert differs in str(caught.value)


def test_the_same_grid_opens_the_store(store: FeatureStore) -> None:
    same = {**GRID, "tissue": dict(reversed(list(TISSUE.items())))}
    assert FeatureStore.open_or_create(store.path, same).slide_ids() == sorted(SLIDES)


def _set_root(root: Path, **attributes: object) -> None:
    document = json.loads((root / "zarr.json").read_text())
    document["attributes"].update(attributes)
    (root / "zarr.json").write_text(json.dumps(document))


def test_another_format_version_is_refused(store: FeatureStore) -> None:
    _set_root(store.path, format_version=3)
    with pytest.raises(StoreMismatchError, match="format version 3, this release reads 1 and 2"):
        FeatureStore.open(store.path)


def test_what_is_no_store_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    _set_root(store.path, format="other")
    with pytest.raises(StoreError, match="no store of histotransfer_pl"):
        FeatureStore.open(store.path)
    with pytest.raises(StoreError, match=r"no store at .*: check the path"):
        FeatureStore.open(tmp_path / "missing.zarr")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.docx").touch()
    with pytest.raises(StoreError, match=r"is no store but holds 'thesis.docx'"):
        FeatureStore.open_or_create(tmp_path / "folder", GRID)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["thesis.docx"]
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file cannot be created"):
        FeatureStore.open_or_create(tmp_path / "file", GRID)
    with pytest.raises(StoreError, match="no store at"):
        FeatureStore.open(tmp_path / "file")


def test_several_processes_may_create_it_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(4)

    def create(_: int) -> FeatureStore:
        together.wait()
        return FeatureStore.open_or_create(tmp_path / "S.zarr", GRID)

    with ThreadPoolExecutor(4) as pool:
        assert [s.grid for s in pool.map(create, range(4))] == [GRID] * 4


def test_a_slide_that_is_there_and_equal_is_kept(store: FeatureStore) -> None:
    with store.writing():
        slide = store.add_slide("a", coords_of("a"), None, {"mpp": 0.25})
    assert slide.has(FEATURES)


def test_a_slide_that_was_moved_is_the_same(empty_store: FeatureStore) -> None:
    def fingerprint(mtime_ns: int, quick_hash: str) -> dict[str, Any]:
        return {"fingerprint": {"mtime_ns": mtime_ns, "quick_hash": quick_hash}}

    with empty_store.writing():
        empty_store.add_slide("a", None, 3, {**fingerprint(1, "x"), "path": "old/a.svs"})
        empty_store.add_slide("a", None, 3, {**fingerprint(2, "x"), "path": "new/a.svs"})
        with pytest.raises(StoreMismatchError, match="quick_hash: the store has 'x', asked for 'y"):
            empty_store.add_slide("a", None, 3, {**fingerprint(1, "y"), "path": "old/a.svs"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c + 1, "coordinates: the patches lie elsewhere"),
        (lambda c: c[:5], "n_patches: the store has 17, asked for 5"),
        (lambda c: None, "coordinates: only one of the two has any"),
    ],
)
def test_a_slide_that_differs_is_named(
    store: FeatureStore, change: Callable[[Any], Any], message: str
) -> None:
    coords = change(coords_of("a"))
    n_patches = 17 if coords is None else None
    with store.writing(), pytest.raises(StoreMismatchError, match=message):
        store.add_slide("a", coords, n_patches, {"mpp": 0.25})


@pytest.mark.parametrize(
    ("coords", "n_patches", "message"),
    [
        (None, None, "give coordinates, or the number"),
        (np.zeros((3, 3), np.int32), None, r"shape \(3, 3\), expected \(N, 2\)"),
        (np.zeros((3, 2), np.int32), 4, "3 coordinates for 4 patches"),
        (np.full((3, 2), 2**31), None, "row 0: 2147483648 is no int32 number"),
    ],
)
def test_coordinates_that_do_not_fit_are_refused(
    empty_store: FeatureStore, coords: Any, n_patches: int | None, message: str
) -> None:
    with empty_store.writing(), pytest.raises(StoreError, match=message):
        empty_store.add_slide("new", coords, n_patches)
    assert empty_store.slide_ids() == []
    assert not (empty_store.path / PARTIAL).exists()


def test_what_matches_is_told_from_what_differs(store: FeatureStore) -> None:
    slide = store.slide("a")
    wanted = {"encoder": "net", "weights_sha256": "ab", "dtype": "float16"}
    assert slide.matches(FEATURES, wanted)
    assert not slide.matches(feature_path("net", "layer1"), wanted)
    with pytest.raises(StoreMismatchError, match="was made otherwise") as caught:
        slide.matches(FEATURES, {**wanted, "weights_sha256": "cd", "dtype": "float32", "fold": 1})
    for line in (
        "weights_sha256: the store has 'ab', asked for 'cd'",
        "dtype: the store has 'float16', asked for 'float32'",
        "fold: the store has nothing, asked for 1",
    ):
        assert line in str(caught.value)


def test_writing_needs_the_lock(store: FeatureStore) -> None:
    with pytest.raises(StoreError, match=r"write inside `with store\.writing"):
        store.add_slide("new", None, 3)
    with pytest.raises(StoreError, match=r"write inside `with store\.writing"):
        store.slide("a").write(FEATURES, features_of("a"), {}, overwrite=True)


def test_a_finished_store_holds_nothing_but_zarr(store: FeatureStore) -> None:
    names = {p.name for p in store.path.iterdir()}
    assert names == {"zarr.json", *map(encode_key, SLIDES)}
    assert not names & {LOCK, PARTIAL}


def test_a_slide_folder_without_metadata_is_named(store: FeatureStore) -> None:
    (store.path / "a/zarr.json").unlink()
    with pytest.raises(StoreError, match=r"folder of slide 'a' .* has lost its zarr.json"):
        _ = store.slide("a").n_patches
    with store.writing(), pytest.raises(StoreError, match=r"folder a in .* has no zarr.json"):
        store.add_slide("a", coords_of("a"))
