"""Attention by run: no lock, stored once, found again also where an older release put it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from histotransfer_pl.errors import StoreError, StoreReadOnlyError
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import PARTIAL, attention_path

from .conftest import SLIDES

RUN, OTHER = "ab" * 32, "cd" * 32
VALUES = np.arange(34, dtype=np.float32).reshape(17, 2)


def test_predicting_twice_stores_once(store: FeatureStore) -> None:
    before = store.slide("a").arrays()
    store.write_attention(RUN, "a", VALUES + 1, {"columns": ["weight", "logit"]})
    store.write_attention(RUN, "a", VALUES, {"columns": ["weight", "logit"]})
    assert np.array_equal(store.read_attention(RUN, "a"), VALUES)
    assert store.slide("a").arrays() == sorted([*before, attention_path(RUN)])
    assert store.attention_runs(["a"]) == [RUN, "fold 0"]
    assert store.verify() == []
    assert not (store.path / PARTIAL).exists()


def test_a_run_without_attention_is_named_with_those_that_have_some(store: FeatureStore) -> None:
    with pytest.raises(StoreError, match=r"no attention of run 'cdcd.*it holds 1.*run `predict`"):
        store.read_attention(OTHER, "a")


def test_attention_under_a_path_is_found_by_the_hash_of_its_checkpoint(
    store: FeatureStore,
) -> None:
    with store.writing():
        for path, values in (("runs/a", VALUES), ("/home/me/runs/a", VALUES + 1)):
            facts = {"run": path, "checkpoint_sha256": RUN if path == "runs/a" else OTHER}
            store.slide("a").write(attention_path(path), values, facts)
    assert np.array_equal(store.read_attention(RUN, "a"), VALUES)
    assert np.array_equal(store.read_attention(OTHER, "a"), VALUES + 1)
    assert store.attention_runs() == sorted([RUN, OTHER, "fold 0"])


def test_it_is_written_beside_a_writer(store: FeatureStore) -> None:
    other = FeatureStore.open(store.path)
    slide = store.slide("a")
    with store.writing(), slide.writer("features/new/x", (17, 2), "float16", {}) as writer:
        writer.assign(slice(None), VALUES)
        other.write_attention(RUN, "a", VALUES, {})
        with other.writing("shard 0/2"):  # sweeps, but not what a living writer has begun
            pass
        writer.commit()
    assert store.verify() == []
    assert store.slide("a").has("features/new/x")


_WRITE = """
    import sys
    import numpy as np
    from histotransfer_pl.store.feature_store import FeatureStore
    store = FeatureStore.open(sys.argv[1])
    sys.stdin.read()
    for n in range(12):
        for slide_id, rows in (("a", 17), ("case 2/slide.svs", 40)):
            store.write_attention(sys.argv[2], slide_id, np.full((rows, 2), n, np.float32), {})
"""


def test_many_predictions_write_one_store_at_once(store: FeatureStore) -> None:
    command = [sys.executable, "-c", textwrap.dedent(_WRITE), str(store.path)]
    writers = [
        subprocess.Popen([*command, run], stdin=subprocess.PIPE)
        for run in (RUN, RUN, OTHER, OTHER)  # twice the same run as well
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0] * 4
    assert store.verify() == []
    for run in (RUN, OTHER):
        for slide_id in ("a", "case 2/slide.svs"):
            values = store.read_attention(run, slide_id)
            assert np.array_equal(values, np.full((SLIDES[slide_id], 2), 11))
    assert not (store.path / PARTIAL).exists()


def test_a_store_on_a_read_only_mount_is_one_line(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(30, os.strerror(30), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StoreReadOnlyError, match=r"is read only for you \(Read-only file system"):
        store.write_attention(RUN, "a", VALUES, {})
    monkeypatch.undo()
    assert not store.slide("a").has(attention_path(RUN))
    store.write_attention(RUN, "a", VALUES, {})
