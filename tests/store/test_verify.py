"""Every kind of damage is found and named by slide and array."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from histotransfer_pl.store import verify
from histotransfer_pl.store.feature_store import FeatureStore

from .conftest import ATTENTION, FEATURES, SELECTION

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
    _edit(slide / FEATURES, lambda attributes: attributes.pop("checksum"))


def _garble_metadata(slide: Path) -> None:
    (slide / FEATURES / "zarr.json").write_text("{")


def _set_nan(slide: Path) -> None:
    zarr.open_array(slide / FEATURES, mode="r+")[5, 2] = np.nan


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (_flip_a_bit, "its values have changed: checksum crc32:"),
        (_zero, "its values have changed: checksum crc32:"),
        (_cut, "cannot be read: .* has 197 bytes, its metadata says 204"),
        (_remove, "cannot be read: .* is missing"),
        (_forget_checksum, "has no checksum"),
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
    _edit(store.path / "a", lambda attributes: attributes.update(n_patches=16))
    wrong = {p.array: p.what for p in store.verify()}
    assert wrong["coords"] == "has shape (17, 2) for 16 patches"
    assert wrong[FEATURES] == "has shape (17, 6) for 16 patches"
    assert wrong[ATTENTION] == "has shape (17,) for 16 patches"


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
    assert wrong["a"] == "its group says it is slide 'b'"
    assert "has no n_patches" in wrong["empty"]
