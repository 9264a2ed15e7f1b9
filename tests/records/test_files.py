"""A file is the old one or the new one, whatever ends the writing."""

import stat
from pathlib import Path

import pytest

from histotransfer_pl.records.files import replacing, sha256_of, write_text


def _write_half(path: Path) -> None:
    with replacing(path) as aside:
        aside.write_text("half")
        raise OSError("disk full")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="full"):
        _write_half(path)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_the_new_file_is_there_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "text")
    assert path.read_text() == "text"
    assert stat.S_IMODE(path.stat().st_mode) & 0o400
    assert sha256_of(path) == "982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1"
