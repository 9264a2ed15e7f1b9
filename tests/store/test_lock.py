"""One writer at a time, and a dead writer does not lock the store."""

import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from histotransfer_pl.errors import StoreError, StoreLockedError
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import HOLDER, LOCK, PARTIAL

_HOLD = """
    import sys
    from histotransfer_pl.store.feature_store import FeatureStore
    with FeatureStore.open(sys.argv[1]).writing():
        print("held", flush=True)
        sys.stdin.read()
"""


def _holder(root: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_HOLD), str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(store: FeatureStore) -> None:
    with _holder(store.path) as process:
        with (
            pytest.raises(StoreLockedError, match=f"being written by process {process.pid} on "),
            store.writing(),
        ):
            pytest.fail("two writers")
        process.kill()
    with store.writing():
        store.add_slide("after", None, 1)
    assert "after" in store
    assert not (store.path / LOCK).exists()


def test_a_second_writer_in_this_process_is_refused(store: FeatureStore) -> None:
    other = FeatureStore.open(store.path)
    with store.writing():
        with pytest.raises(StoreLockedError, match="being written by process"), other.writing():
            pytest.fail("two writers")
        (store.path / HOLDER).unlink()
        with pytest.raises(StoreLockedError, match="by another process"), other.writing():
            pytest.fail("two writers")
    with other.writing():
        other.add_slide("after", None, 1)


def test_blocks_nest(store: FeatureStore) -> None:
    other = FeatureStore.open(store.path)
    with store.writing():
        with store.writing():
            store.add_slide("inner", None, 1)
        store.add_slide("outer", None, 1)
        with pytest.raises(StoreLockedError, match="is being written"), other.writing():
            pytest.fail("the inner block gave the lock away")


def test_helpers_write_under_the_lock_of_the_first(store: FeatureStore) -> None:
    helper = FeatureStore.open(store.path)
    with (
        pytest.raises(StoreError, match="nobody holds the lock"),
        helper.writing(lock=False),
    ):
        pytest.fail("a helper without a holder")
    with store.writing(), helper.writing(lock=False):
        helper.add_slide("from the helper", None, 1)
        store.add_slide("from the holder", None, 1)
    assert {"from the helper", "from the holder"} <= set(helper.slide_ids())


def test_the_next_writer_sweeps_what_a_killed_one_left(store: FeatureStore) -> None:
    stale = store.path / PARTIAL / f"{platform.node()}-12-34"
    stale.mkdir(parents=True)
    (stale / "c").write_bytes(b"half")
    (stale.parent / f"{platform.node()}-12-56.held").touch()  # killed between lock and folder
    with FeatureStore.open(store.path).writing():
        assert not stale.exists()
    assert not (store.path / PARTIAL).exists()


def test_a_folder_that_cannot_be_written_is_named(store: FeatureStore) -> None:
    (store.path / LOCK).mkdir()  # as root, no permission stops a test
    with pytest.raises(StoreError, match="cannot be locked for writing"), store.writing():
        pytest.fail("wrote without a lock")
