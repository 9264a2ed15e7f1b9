"""Archives are compared with their own checksums."""

import zipfile
from pathlib import Path

import pytest

from histotransfer_pl.records.files import damaged_part


def test_a_flipped_bit_is_found_and_its_part_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one", b"x" * 100)
        archive.writestr("two", b"y" * 100)
    assert damaged_part(path) is None
    content = path.read_bytes()
    path.write_bytes(content.replace(b"yyyy", b"yyzy", 1))
    assert damaged_part(path) == "two"
    path.write_bytes(content[:-30])
    assert damaged_part(path) == "its table of contents"
    with pytest.raises(OSError, match="No such file"):
        damaged_part(tmp_path / "none.zip")
