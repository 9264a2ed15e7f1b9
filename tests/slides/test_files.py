"""Finding slides in a folder and recognising them again."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from histotransfer_pl.errors import SlideError
from histotransfer_pl.slides.files import find_slides, fingerprint


def test_slides_are_found_by_suffix_and_sorted(tmp_path: Path) -> None:
    for name in ("b.svs", "a.TIFF", "c.mrxs", "c/Data0001.dat", "notes.txt", "._b.svs", "d/e.ndpi"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "folder.svs").mkdir()
    names = [path.name for path in find_slides(tmp_path)]
    assert names == ["a.TIFF", "b.svs", "c.mrxs"]
    assert tmp_path / "d" / "e.ndpi" in find_slides(tmp_path, recursive=True)


def test_files_of_one_dicom_series_are_one_slide(data_root: Path, tmp_path: Path) -> None:
    fixtures = data_root / "wsi_real" / "format_fixtures"
    for name in ("boxes_0.dcm", "boxes_1.dcm"):
        shutil.copy(fixtures / name, tmp_path)
    (tmp_path / "broken.dcm").write_bytes(b"x")
    names = [path.name for path in find_slides(tmp_path)]
    assert names == ["boxes_0.dcm", "broken.dcm"]


def test_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="none is not a folder"):
        find_slides(tmp_path / "none")


@pytest.mark.parametrize("size", [0, 1000, 1024**2 + 1, 3 * 1024**2])
def test_fingerprint_is_size_time_and_hash_of_both_ends(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path = tmp_path / "a.svs"
    path.write_bytes(data)
    mark = fingerprint(path)
    ends = data[: 1024**2] + data[max(0, size - 1024**2) :]
    assert mark["quick_hash"] == hashlib.sha256(str(size).encode() + ends).hexdigest()
    assert mark["size"] == size
    assert mark["mtime_ns"] == path.stat().st_mtime_ns


def test_fingerprint_of_a_copy_differs_in_time_only(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.svs", tmp_path / "b.svs"
    path.write_bytes(b"slide")
    shutil.copy(path, copy)
    os.utime(copy, ns=(1, 1))
    assert fingerprint(path)["quick_hash"] == fingerprint(copy)["quick_hash"]
    copy.write_bytes(b"slidf")
    assert fingerprint(path)["quick_hash"] != fingerprint(copy)["quick_hash"]


def test_fingerprint_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"a\.svs cannot be read: No such file"):
        fingerprint(tmp_path / "a.svs")
