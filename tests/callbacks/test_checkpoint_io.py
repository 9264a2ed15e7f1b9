"""A checkpoint appears whole or not at all, and the one before it stays."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import AsyncCheckpointIO, MixedPrecision

from histotransfer_pl.callbacks.checkpoint_io import AtomicCheckpointIO, with_atomic_checkpoints
from histotransfer_pl.errors import ConfigError


def fail_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("torch.save", save)


def test_what_was_written_is_read_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.ckpt"
    for epoch in (1, 2):
        AtomicCheckpointIO().save_checkpoint({"epoch": epoch, "w": torch.ones(3)}, path)
        assert torch.load(path, weights_only=True)["epoch"] == epoch
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free space on the disk"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed\nat"),
         "free space on the disk"),
        (PermissionError(errno.EACCES, "Permission denied"), "check the folder"),
    ],
)  # fmt: skip
def test_a_write_that_fails_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, advice: str
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    fail_with(error, monkeypatch)
    with pytest.raises(
        ConfigError, match=rf"last\.ckpt cannot be written .*kept: {advice}"
    ) as said:
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert "\n" not in str(said.value)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_plugin_of_the_users_choice_stays() -> None:
    own, other = AsyncCheckpointIO(), MixedPrecision("bf16-mixed", "cpu")
    assert with_atomic_checkpoints([other, own]) == [other, own]
    for given in (None, [], other, [other]):
        *before, last = with_atomic_checkpoints(given)
        assert isinstance(last, AtomicCheckpointIO)
        assert before == ([other] if given else [])
