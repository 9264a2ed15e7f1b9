"""A full disk or a killed process leaves whole arrays or none, and the next writer goes on."""

import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import PARTIAL, feature_path

from .conftest import FEATURES, GRID, SLIDES, coords_of, features_of

NEW = feature_path("other", "layer1")

_WRITE_FOR_EVER = """
    import itertools, sys
    import numpy as np
    from histotransfer_pl.store.feature_store import FeatureStore
    store = FeatureStore.open(sys.argv[1])
    with store.writing():
        for n in itertools.count():
            slide = store.add_slide(f"slide {n}", np.full((300, 2), n), attributes={"n": n})
            with slide.writer("features/e/d", (300, 64), "float16", {}) as writer:
                for start in range(0, 300, 50):
                    writer.assign(slice(start, start + 50), np.full((50, 64), n % 1000 + 1))
                writer.commit()
            if n == 0:
                print("begun", flush=True)
"""


def _assert_whole(store: FeatureStore) -> None:
    """Every array that can be seen holds what was written, by us and by plain sums."""
    assert store.verify() == []
    for slide_id in store.slide_ids():
        slide = store.slide(slide_id)
        if "n" in slide.attributes:
            n = slide.attributes["n"]
            assert (slide.coords() == n).all()
            for array in slide.arrays():
                assert (slide.read(array) == n % 1000 + 1).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_writer_leaves_nothing_half_written(store: FeatureStore, seed: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(_WRITE_FOR_EVER), str(store.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(random.Random(seed).uniform(0.0, 0.3))
        process.kill()
    again = FeatureStore.open(store.path)
    assert len(again.slide_ids()) > len(SLIDES)
    _assert_whole(again)
    with again.writing():
        again.add_slide("after", coords_of("a")).write(FEATURES, features_of("a"), {})
    _assert_whole(again)
    assert not (again.path / PARTIAL).exists()


def _fail_at(call: int, code: int, real: Callable[..., object]) -> Callable[..., object]:
    calls = iter(range(1_000))

    def fails(*args: object, **kwargs: object) -> object:
        if next(calls) == call:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return fails


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    ("place", "name", "call"),
    [
        (os, "pwrite", 0),
        (os, "pwrite", 1),
        (os, "ftruncate", 0),
        (os, "fsync", 0),
        (Path, "write_bytes", 0),
        (Path, "write_bytes", 1),
        (Path, "mkdir", 0),
        (Path, "rename", 1),
    ],
)
def test_a_full_disk_loses_one_array_and_nothing_else(
    store: FeatureStore,
    monkeypatch: pytest.MonkeyPatch,
    place: object,
    name: str,
    call: int,
    code: int,
) -> None:
    slide = store.slide("a")
    values = np.ones((17, 4))

    def write() -> None:
        with slide.writer(NEW, values.shape, "float16", {}, max_chunk_bytes=80) as rows:
            rows.assign(slice(None), values)
            rows.commit()

    with store.writing():
        monkeypatch.setattr(place, name, _fail_at(call, code, getattr(place, name)))
        with pytest.raises(StoreError, match=r"disk of .* is full .* it continues there"):
            write()
        monkeypatch.undo()
        assert not slide.has(NEW)
        assert list((store.path / PARTIAL).glob("*/*")) == []
        write()
    assert np.array_equal(slide.read(NEW), values)
    assert store.verify() == []


def test_a_full_disk_while_a_slide_is_added(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.writing():
        monkeypatch.setattr(os, "fsync", _fail_at(0, errno.ENOSPC, os.fsync))
        with pytest.raises(StoreError, match="slide 'new' could not be written, the disk"):
            store.add_slide("new", coords_of("a"))
        monkeypatch.undo()
        assert "new" not in store
        assert list((store.path / PARTIAL).glob("*/*")) == []
    assert store.verify() == []


def test_another_failure_of_the_disk_is_told_as_it_is(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.writing():
        monkeypatch.setattr(os, "fsync", _fail_at(0, errno.EIO, os.fsync))
        with pytest.raises(StoreError, match=r"could not be written to .*Input/output error"):
            store.slide("a").write(NEW, np.ones((17, 4)), {})


def test_a_limit_of_the_system_is_a_full_disk(empty_store: FeatureStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with empty_store.writing():
        slide = empty_store.add_slide("big", None, 100_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            with pytest.raises(StoreError, match="is full or its quota used up"):
                slide.write(NEW, np.ones((100_000, 8), np.float16), {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert slide.arrays() == []
    assert not (empty_store.path / PARTIAL).exists()


def test_a_store_whose_creation_was_killed_is_created_again(tmp_path: Path) -> None:
    half = tmp_path / "S.zarr" / PARTIAL / "0123"
    half.mkdir(parents=True)
    (half / "zarr.json").write_bytes(b"{")
    assert FeatureStore.open_or_create(tmp_path / "S.zarr", GRID).grid == GRID
    shutil.rmtree(tmp_path / "S.zarr")
