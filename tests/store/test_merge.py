"""Stores written apart become one, by copy or by link; nothing damaged is taken."""

from pathlib import Path

import numpy as np
import pytest

from histotransfer_pl.cli.main import main
from histotransfer_pl.errors import StoreMismatchError
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.merge import merge_stores

from .conftest import FEATURES, GRID, SLIDES, coords_of, features_of


def _part(root: Path, *slide_ids: str, grid: dict[str, object] = GRID) -> FeatureStore:
    store = FeatureStore.open_or_create(root, grid)
    with store.writing():
        for slide_id in slide_ids:
            facts = {"path": str(root.parent / f"{slide_id}.svs")}
            slide = store.add_slide(slide_id, coords_of(slide_id), None, facts)
            slide.write(FEATURES, features_of(slide_id), {"encoder": "net"})
    return store


@pytest.mark.parametrize("reference", [False, True])
def test_parts_become_one(tmp_path: Path, reference: bool) -> None:
    parts = [_part(tmp_path / "1/s.zarr", "a"), _part(tmp_path / "2/s.zarr", *list(SLIDES)[1:])]
    arguments = ["--stores", *(str(part.path) for part in parts), "--out", str(tmp_path / "s.zarr")]
    for _ in range(2):  # again is harmless
        assert main(["merge", *arguments, "--reference", str(reference).lower()]) == 0
    joined = FeatureStore.open(tmp_path / "s.zarr")
    assert joined.slide_ids() == sorted(SLIDES)
    assert joined.verify() == []
    for slide_id in SLIDES:
        assert np.array_equal(joined.slide(slide_id).read(FEATURES), features_of(slide_id))
    if not reference:
        assert joined.slide("a").attributes["path"] == str(tmp_path / "1/a.svs")


def test_what_is_damaged_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = _part(tmp_path / "1.zarr", "a", "case 2/slide.svs")
    (part.path / "a" / FEATURES / "c/0/0").write_bytes(bytes(204))
    assert main(["merge", "--stores", str(part.path), "--out", str(tmp_path / "s.zarr")]) == 1
    assert f"slide 'a', {FEATURES}: its values have changed" in capsys.readouterr().out
    assert FeatureStore.open(tmp_path / "s.zarr").slide_ids() == ["case 2/slide.svs"]


def test_what_differs_is_refused(tmp_path: Path) -> None:
    one, other = _part(tmp_path / "1.zarr", "a"), _part(tmp_path / "2.zarr")
    with other.writing():
        slide = other.add_slide("a", coords_of("a"), None, {"path": str(tmp_path / "a.svs")})
        slide.write(FEATURES, features_of("a") + 1, {"encoder": "net"})
    with pytest.raises(StoreMismatchError, match="'a', .* has other values in"):
        merge_stores([one, other], tmp_path / "s.zarr")
    with pytest.raises(StoreMismatchError, match="slide 'a' is in .* already, from"):
        merge_stores([one, other], tmp_path / "l.zarr", reference=True)
    another = _part(tmp_path / "3.zarr", "a", grid={"patch_px": 1})
    with pytest.raises(StoreMismatchError, match="was made with another patch grid"):
        merge_stores([one, another], tmp_path / "g.zarr")
