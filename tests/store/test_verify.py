"""Every kind of damage is found and named by slide and array."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store import verify
from histotransfer_pl.store.checksum import seal
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.metadata import to_bytes
from histotransfer_pl.store.verify import verify_slide

from .conftest import ATTENTION, FEATURES, SELECTION, coords_of, features_of

CHUNK = f"{FEATURES}/c/0/0"


def _flip_a_bit(slide: Path) -> None:
    content = bytearray((slide / CHUNK).read_bytes())
    content[40] ^= 1
    (slide / CHUNK).write_bytes(content)


def _zero(slide: Path) -> None:
    (slide / CHUNK).write_bytes(bytes((slide / CHUNK).stat().st_size))


def _cut(slide: Path) -> None:
    (slide / CHUNK).write_bytes((slide / CHUNK).read_bytes()[:-7])


def _remove(slide: Path) -> None:
    (slide / CHUNK).unlink()


def _edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    document = json.loads((path / "zarr.json").read_text())
    change(document["attributes"])
    (path / "zarr.json").write_text(json.dumps(document))


def _forget_checksum(slide: Path) -> None:
    _edit(slide / FEATURES, lambda attributes: [attributes.pop(n) for n in ("checksum", "seal")])


def _null_seal(slide: Path) -> None:
    _edit(slide / FEATURES, lambda attributes: attributes.update(seal=None))


def _garble_metadata(slide: Path) -> None:
    (slide / FEATURES / "zarr.json").write_text("{")


def _set_nan(slide: Path) -> None:
    zarr.open_array(slide / FEATURES, mode="r+")[5, 2] = np.nan


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (_flip_a_bit, "its values have changed: checksum xxh3:"),
        (_zero, "its values have changed: checksum xxh3:"),
        (_cut, "cannot be read: .* has 197 bytes, its metadata says 204"),
        (_remove, "cannot be read: .* is missing"),
        (_forget_checksum, "has no checksum"),
        (_null_seal, "cannot be read: the metadata of .* have changed"),
        (_garble_metadata, "cannot be read: .* no valid JSON"),
        (_set_nan, "row 5 holds NaN"),
    ],
)
def test_damage_is_found_and_named(
    store: FeatureStore, damage: Callable[[Path], None], what: str
) -> None:
    assert store.verify() == []
    damage(store.path / "a")
    problems = store.verify()
    assert {(p.slide_id, p.array) for p in problems} == {("a", FEATURES)}
    assert any(re.search(what, problem.what) for problem in problems)


def test_damage_is_found_in_every_piece(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_PIECE_BYTES", 30)  # two rows
    assert store.verify() == []
    _set_nan(store.path / "a")
    assert [p.what for p in store.verify()][1:] == ["row 5 holds NaN or infinite values"]


def test_rows_are_counted_against_the_slide(store: FeatureStore) -> None:
    _seal_again(store.path, "a", lambda attributes: attributes.update(n_patches=16))
    wrong = {p.array: p.what for p in store.verify()}
    assert wrong["coords"] == "has shape (17, 2) for 16 patches"
    assert wrong[FEATURES] == "has shape (17, 6) for 16 patches"
    assert wrong[ATTENTION] == "has shape (17,) for 16 patches"


def _seal_again(root: Path, node: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Metadata that are wrong but whole, as a program with a fault would write them."""
    document = json.loads((root / node / "zarr.json").read_text())
    change(document["attributes"])
    (root / node / "zarr.json").write_bytes(to_bytes(seal(document, node)))


def test_selected_rows_exist(store: FeatureStore) -> None:
    with store.writing():
        store.slide("a").write(SELECTION, np.array([0, 17], np.int32), {}, overwrite=True)
    assert list(map(str, store.verify())) == [
        f"slide 'a', {SELECTION}: selects rows outside the 17 patches of the slide"
    ]


def test_a_folder_that_is_no_slide_is_named(store: FeatureStore) -> None:
    (store.path / "notes").mkdir()
    _edit(store.path / "a", lambda attributes: attributes.update(slide_id="b"))
    (store.path / "empty/zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    wrong = {p.slide_id: p.what for p in store.verify()}
    assert "has lost its zarr.json" in wrong["notes"]
    assert "its group says it is slide 'b'" in wrong["a"]
    assert "has no n_patches" in wrong["empty"]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 7))]
)
@pytest.mark.parametrize("node", ["a", f"a/{FEATURES}", "a/coords", "a/features"])
def test_every_flipped_bit_of_metadata_is_found(store: FeatureStore, node: str, seed: int) -> None:
    """A seventh of the bits in each case."""
    path = store.path / node / "zarr.json"
    sound, unnoticed = path.read_bytes(), []
    for bit in range(seed, len(sound) * 8, 7):
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        if not verify_slide(store.slide("a"), store.files):
            unnoticed.append(bit)
    assert unnoticed == []


def _remove_group(slide: Path) -> None:
    shutil.rmtree(slide / "features")


def _remove_coords(slide: Path) -> None:
    shutil.rmtree(slide / "coords")


def _remove_array(slide: Path) -> None:
    shutil.rmtree(slide / FEATURES)


def _rename_encoder(slide: Path) -> None:
    (slide / FEATURES).parent.rename(slide / "features" / "other")


def _rename_depth(slide: Path) -> None:
    (slide / FEATURES).rename(slide / f"{FEATURES}x")


def _remove_group_metadata(slide: Path) -> None:
    (slide / "features/zarr.json").unlink()


def _change_type(slide: Path) -> None:
    document = json.loads((slide / FEATURES / "zarr.json").read_text())
    document["data_type"] = "int16"
    document["fill_value"] = 0
    (slide / FEATURES / "zarr.json").write_text(json.dumps(document))


def _edit_mpp(slide: Path) -> None:
    _edit(slide, lambda attributes: attributes.update(mpp=0.5))


def _word_for_a_number(slide: Path) -> None:
    _edit(slide, lambda attributes: attributes.update(n_patches="x"))


def _pipe(slide: Path) -> None:
    (slide / CHUNK).unlink()
    os.mkfifo(slide / CHUNK)


def _pipe_for_metadata(slide: Path) -> None:
    (slide / "zarr.json").unlink()
    os.mkfifo(slide / "zarr.json")


def _deep_metadata(slide: Path) -> None:
    (slide / "zarr.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    "damage",
    [
        *(_flip_a_bit, _zero, _cut, _remove, _garble_metadata, _set_nan),
        *(_remove_group, _remove_coords, _remove_array, _rename_encoder, _rename_depth),
        *(_remove_group_metadata, _change_type, _edit_mpp, _word_for_a_number),
        *(_pipe, _pipe_for_metadata, _deep_metadata),
    ],
)
def test_what_is_broken_is_removed_and_written_again(
    store: FeatureStore, damage: Callable[[Path], None]
) -> None:
    """Other slides are checked whatever has happened to one."""
    _zero(store.path / "case%202%2Fslide.svs")
    damage(store.path / "a")
    assert {p.slide_id for p in store.verify()} == {"a", "case 2/slide.svs"}
    assert {p.slide_id for p in store.verify(repair=True)} == {"a", "case 2/slide.svs"}
    again = FeatureStore.open(store.path)
    assert again.verify() == []
    with again.writing():
        for slide_id in ("a", "case 2/slide.svs"):
            slide = again.add_slide(slide_id, coords_of(slide_id), None, {"mpp": 0.25})
            if not slide.matches(FEATURES, {"encoder": "net"}):
                slide.write(FEATURES, features_of(slide_id), {"encoder": "net"})
    assert again.verify() == []
    assert np.array_equal(again.slide("a").read(FEATURES), features_of("a"))


def test_a_repair_keeps_what_another_program_wrote(store: FeatureStore) -> None:
    _forget_checksum(store.path / "a")
    assert [p.foreign for p in store.verify(repair=True)] == [True]
    assert store.slide("a").has(FEATURES)


def test_a_bag_that_was_changed_or_swapped_is_not_read(store: FeatureStore) -> None:
    _set_nan(store.path / "a")
    with pytest.raises(StoreError, match=f"'a', {FEATURES}: its values have changed since"):
        store.slide("a").read(FEATURES)
    a, b = store.path / "a", store.path / "case%202%2Fslide.svs"
    a.rename(store.path / "aside")
    b.rename(a)
    (store.path / "aside").rename(b)
    for slide_id in ("a", "case 2/slide.svs"):
        with pytest.raises(StoreError, match=f"metadata of slide '{slide_id}', .* belong to"):
            store.slide(slide_id).read(FEATURES)
        with pytest.raises(StoreError, match="its group says it is slide"):
            _ = store.slide(slide_id).n_patches


def test_values_are_checked_once_and_again_when_they_were_replaced(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    monkeypatch.setattr(store.files, "mark_checked", lambda key, values: checked.append(key))
    store.slide("a").read(FEATURES, slice(0, 3))
    assert checked == []
    monkeypatch.undo()
    store.slide("a").read(FEATURES)
    assert store.files.is_checked(f"a/{FEATURES}")
    with store.writing():
        store.slide("a").write(FEATURES, features_of("a") + 1, {}, overwrite=True)
    _zero(store.path / "a")
    with pytest.raises(StoreError, match="its values have changed"):
        store.slide("a").read(FEATURES)


def test_a_store_of_version_1_is_read_extended_and_verified(store: FeatureStore) -> None:
    for path in [*store.path.rglob("zarr.json")]:
        document = json.loads(path.read_text())
        for name in ("seal", "contents"):
            document["attributes"].pop(name, None)
        if "format" in document["attributes"]:
            document["attributes"]["format_version"] = 1
        path.write_text(json.dumps(document))
    old = FeatureStore.open(store.path)
    assert old.version == 1
    assert old.verify() == []
    assert np.array_equal(old.slide("a").read(FEATURES), features_of("a"))
    with old.writing():
        old.slide("a").write("features/new/x", features_of("a"), {})
    assert old.slide("a").contents is None
    _edit(store.path / "a", lambda attributes: attributes.update(n_patches=16))
    with pytest.raises(StoreError, match="has 17 rows for 16 patches"):
        FeatureStore.open(store.path).slide("a").read(FEATURES)


def test_a_pipe_in_place_of_values_is_not_waited_for(store: FeatureStore) -> None:
    _pipe(store.path / "a")
    with pytest.raises(StoreError, match="has 0 bytes, its metadata says 204"):
        store.slide("a").read(FEATURES)


def test_the_order_of_keys_is_not_sealed() -> None:
    document = {"node_type": "group", "attributes": {"slide_id": "a", "n_patches": 3}}
    turned = {"attributes": {"n_patches": 3, "slide_id": "a"}, "node_type": "group"}
    assert seal(document, "a")["attributes"]["seal"] == seal(turned, "a")["attributes"]["seal"]
