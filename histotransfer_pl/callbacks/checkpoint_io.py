"""Checkpoints that a kill cannot halve."""

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.plugins import TorchCheckpointIO
from typing_extensions import override

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one, and then puts it in its place.

    Lightning writes into the folder for temporary files and moves from there. On clusters that is
    another file system, the move is a copy over the old checkpoint, and a kill leaves 0 bytes.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            with replacing(Path(path)) as aside:
                torch.save(checkpoint, aside)
        except (OSError, RuntimeError) as error:
            # torch's own writer turns a full disk into a RuntimeError
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            full = getattr(error, "errno", None) == errno.ENOSPC or "write" in reason
            raise ConfigError(
                f"{path} cannot be written ({reason}); the checkpoint before it is kept: "
                + ("free space on the disk" if full else "check the folder")
                + " and go on with --ckpt_path last"
            ) from error


def with_atomic_checkpoints(plugins: Any) -> list[Any]:
    """The plugins of a Trainer, with this way to write unless another one was chosen."""
    several = isinstance(plugins, Sequence) and not isinstance(plugins, str)
    given = list(plugins) if several else [] if plugins is None else [plugins]
    if any(isinstance(plugin, CheckpointIO) for plugin in given):
        return given
    return [*given, AtomicCheckpointIO()]
