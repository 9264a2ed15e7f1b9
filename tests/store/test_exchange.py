"""Features of CLAM, TRIDENT and STAMP come in with their coordinates and go out as they came."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.exchange import find_features, import_features
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.foreign import FeatureFormat, read_foreign, write_foreign
from histotransfer_pl.store.layout import feature_path

N, D, SIDE, MPP = 16, 32, 512, 0.2527
PATH = feature_path("uni", "last")
TRIDENT = {
    "patch_size": 256,
    "patch_size_level0": SIDE,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "name": "s1",
}


@pytest.fixture
def coords() -> np.ndarray:
    axis = np.arange(0, 4 * SIDE, SIDE)
    return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)  # (N, 2) int64


@pytest.fixture
def folder(tmp_path: Path, coords: np.ndarray) -> Path:
    """One file of each program; STAMP's tiles are multiples of 128 um, as it makes them."""
    features = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    root = tmp_path / "features"
    root.mkdir()
    for name, shown, placed, said in (
        ("clam", features, coords, {}),
        ("trident", features, coords.astype(np.int32), TRIDENT),
        ("batched", features[None], coords[None], {}),
    ):
        with h5py.File(root / f"{name}.h5", "w") as file:
            file["features"] = shown
            file.create_dataset("coords", data=placed).attrs.update(said)
    with h5py.File(root / "stamp.h5", "w") as file:
        file["coords"] = (coords / SIDE * 128.0).astype(np.float32)
        file["feats"] = features.astype(np.float16)
        file.attrs.update({"extractor": "uni", "unit": "um", "tile_size_um": 128.0})
    torch.save(torch.from_numpy(features), root / "plain.pt")
    return root


def imported(root: Path, folder: Path) -> FeatureStore:
    store = FeatureStore.open_or_create(root / "s.zarr", None)
    with store.writing():
        outcomes = import_features(
            store, find_features(folder), "uni", "last", lambda _: {"slide_mpp": MPP}
        )
    assert [o.problem for o in outcomes] == [""] * len(outcomes)
    return store


def arrays_of(path: Path) -> dict[str, Any]:
    """Bytes, types, shapes and attributes of a file."""
    if path.suffix == ".pt":
        tensor = torch.load(path, weights_only=True)
        return {"tensor": (tensor.dtype, tuple(tensor.shape), tensor.numpy().tobytes())}
    with h5py.File(path) as file:
        found: dict[str, Any] = {"": dict(file.attrs)}
        for name, data in file.items():
            values = data[()]
            found[name] = (values.dtype.str, values.shape, values.tobytes(), dict(data.attrs))
    return found


@pytest.mark.parametrize("name", ["clam.h5", "trident.h5", "batched.h5", "stamp.h5", "plain.pt"])
def test_what_came_in_goes_out_byte_for_byte(tmp_path: Path, folder: Path, name: str) -> None:
    slide = imported(tmp_path, folder).slide(name.partition(".")[0])
    kind: FeatureFormat = slide.attributes["imported"]["format"]
    coords = slide.coords() if slide.has("coords") else None
    write_foreign(tmp_path / name, slide.read(PATH), coords, slide.attributes, kind)
    assert arrays_of(tmp_path / name) == arrays_of(folder / name)
    assert not list(tmp_path.glob("*.part"))


def test_coordinates_and_patch_sizes_arrive_in_level0_pixels(
    tmp_path: Path, folder: Path, coords: np.ndarray
) -> None:
    store = imported(tmp_path, folder)
    for name in ("clam", "trident", "batched"):
        slide = store.slide(name)
        assert np.array_equal(slide.coords(), coords)
        assert slide.attributes["patch_size_level0"] == SIDE
    stamp = store.slide("stamp")
    np.testing.assert_allclose(stamp.coords() * MPP, coords / SIDE * 128, atol=MPP / 2)
    assert stamp.attributes["patch_size_level0"] == pytest.approx(128 / MPP)
    assert stamp.info(PATH).dtype == np.float16
    assert not store.slide("plain").has("coords")
    assert store.verify() == []


def test_the_resolution_is_told_by_the_magnification_if_nobody_says_it(folder: Path) -> None:
    assert read_foreign(folder / "trident.h5").slide_mpp == 0.25
    assert read_foreign(folder / "clam.h5").slide_mpp is None


@pytest.mark.parametrize("kind", ["clam", "trident", "stamp"])
def test_every_program_reads_what_is_written_for_it(
    tmp_path: Path, coords: np.ndarray, kind: FeatureFormat
) -> None:
    features = np.arange(N * D, dtype=np.float16).reshape(N, D)
    grid = {"patch_px": 224, "mpp": 0.5, "overlap_px": 0}
    facts = {"slide_id": "s", "slide_mpp": 0.25, "patch_size_level0": 448.0, "grid": grid}
    write_foreign(tmp_path / "s.h5", features, coords.astype(np.int32), facts, kind)
    found = read_foreign(tmp_path / "s.h5")
    assert found.record["format"] == kind
    assert np.array_equal(found.features, features)
    placed = found.coords_level0(0.25)
    assert placed is not None
    assert np.array_equal(placed, coords)
    if kind != "clam":  # which has no place for it
        assert found.patch_size_level0(0.25) == 448
    if kind == "trident":
        said = found.record["attributes"]["coords"]
        assert (said["patch_size"], said["level0_magnification"]) == (224, 40)
        assert said["target_magnification"] == 20


def test_a_file_that_fails_stops_no_other(tmp_path: Path, folder: Path) -> None:
    (folder / "broken.h5").write_bytes(b"no")
    torch.save({"a": 1}, folder / "dict.pt")
    with h5py.File(folder / "odd.h5", "w") as file:
        file["x"] = [1]
    with h5py.File(folder / "uneven.h5", "w") as file:
        file["features"], file["coords"] = np.ones((3, 4)), np.ones((2, 2), int)
    with h5py.File(folder / "nan.h5", "w") as file:
        file["features"] = np.full((2, 2), np.nan)
    store = FeatureStore.open_or_create(tmp_path / "s.zarr", None)
    with store.writing():
        outcomes = import_features(store, find_features(folder), "uni", "last", lambda _: {})
    problems = {o.slide_id: o.problem for o in outcomes if o.problem}
    for name, words in {
        "broken": "no HDF5 file, or damaged",
        "dict": "holds a dict; expected one tensor",
        "odd": r"holds ['x']; expected features (CLAM, TRIDENT) or feats (STAMP)",
        "uneven": "3 features and coordinates of shape (2, 2)",
        "nan": "finite",
        "stamp": "the slide's mpp is needed",
    }.items():
        assert words in problems.pop(name)
    assert not problems
    assert store.slide_ids() == ["batched", "clam", "plain", "trident"]


def test_of_clams_two_files_the_one_with_coordinates_is_taken(folder: Path) -> None:
    (folder / "pt_files").mkdir()
    torch.save(torch.ones(2, 2), folder / "pt_files" / "clam.pt")
    assert find_features(folder)["clam"] == folder / "clam.h5"
    (folder / "more").mkdir()
    (folder / "more" / "clam.h5").write_bytes(b"")
    with pytest.raises(StoreError, match="would both be the slide 'clam'"):
        find_features(folder)
    (folder / "empty").mkdir()
    with pytest.raises(StoreError, match=r"no \.h5 or \.pt file"):
        find_features(folder / "empty")
