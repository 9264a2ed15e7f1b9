"""Bags of object stores on the local disk, as many as a limit allows."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.store.metadata import RawLayout

FOLDER = "HISTOTRANSFER_CACHE"
"""Environment variable: the folder of the cache; the user's cache folder by default."""
LIMIT_GB = "HISTOTRANSFER_CACHE_GB"
"""Environment variable: how many GB it may hold; 10 by default, 0 for no cache."""


@dataclass(frozen=True)
class BagCache:
    """Whole arrays that were read before, least recently used ones dropped first.

    Attributes:
        folder: Where they lie; processes and runs share it.
        limit_bytes: What all of them may take.
    """

    folder: Path
    limit_bytes: int

    @classmethod
    def from_environment(cls) -> "BagCache":
        """The cache that the environment asks for."""
        home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
        folder = os.environ.get(FOLDER, f"{home}/histotransfer_pl/bags")
        limit = float(os.environ.get(LIMIT_GB, "10"))
        return cls(Path(folder).expanduser(), int(limit * 1e9))

    def find(self, name: str) -> Path | None:
        """The folder of a cached array, laid out as in a local store; None if it is not there."""
        folder = self._place(name)
        try:
            os.utime(folder)  # used last
        except OSError:
            return None
        return folder

    def add(self, name: str, layout: RawLayout, values: NDArray[Any]) -> None:
        """Keep an array; a disk that takes nothing costs speed and nothing else."""
        if values.nbytes > self.limit_bytes or layout.chunks != 1:
            return
        place = self._place(name)
        if place.exists():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(values.nbytes)
            aside = Path(tempfile.mkdtemp(dir=self.folder, prefix="."))
            try:
                chunk = aside / layout.chunk_key(0)
                chunk.parent.mkdir(parents=True)
                np.ascontiguousarray(values).tofile(chunk)
                aside.rename(place)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        except OSError:
            return

    def _make_room(self, n_bytes: int) -> None:
        kept = []
        for folder in self.folder.glob("[!.]*"):
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            kept.append((folder.stat().st_mtime_ns, size, folder))
        total = sum(size for _, size, _ in kept)
        for _, size, folder in sorted(kept):
            if total + n_bytes <= self.limit_bytes:
                return
            shutil.rmtree(folder, ignore_errors=True)
            total -= size

    def _place(self, name: str) -> Path:
        return self.folder / hashlib.sha256(name.encode()).hexdigest()
