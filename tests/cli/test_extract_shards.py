"""Shards, moved slides and object stores through the command line."""

import errno
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from histotransfer_pl.cli.main import main
from histotransfer_pl.data import tile
from histotransfer_pl.errors import SlideError, StoreMismatchError
from histotransfer_pl.slides.synthetic import paint_cohort
from histotransfer_pl.store.feature_store import FeatureStore

from ..store.s3 import BUCKET, failing, serve_s3
from .conftest import Run

Extract = Callable[..., int]
LAYER = "features/resnet18-random0/layer1"


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    paint_cohort(folder, n_patients=4, slides_per_patient=1, seed=0, size_px=560)
    return folder / "slides"


@pytest.fixture
def extract(painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Extract:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, store: str = "s.zarr", slides: Path = painted) -> int:
        data = ["--data.slides", str(slides), "--data.store", store, "--data.qc", "false"]
        grid = ["--data.grid.patch_px", "64", "--data.grid.mpp", "1.0", "--data.batch_size", "7"]
        model = ["--model.encoder", "resnet18", "--model.weights", "random"]
        return main(["extract", *data, *grid, *model, "--model.depths", "[layer1]", *arguments])

    return call


def _same(one: FeatureStore, other: FeatureStore) -> bool:
    assert one.slide_ids() == other.slide_ids()
    return all(
        np.array_equal(one.slide(s).read(array), other.slide(s).read(array))
        for s in one.slide_ids()
        for array in ("coords", LAYER)
    )


def test_shards_fill_one_store_as_one_process_does(
    extract: Extract, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert extract("--shard", "0/2") == 0
    assert len(FeatureStore.open("s.zarr").slide_ids()) == 2
    assert extract("--shard=0/2") == 0  # the same shard again is harmless
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert extract("--shard", "auto/2") == 0
    assert extract(store="whole.zarr") == 0
    assert _same(FeatureStore.open("s.zarr"), FeatureStore.open("whole.zarr"))
    assert main(["verify", "--store", "s.zarr"]) == 0
    capsys.readouterr()
    assert extract("--shard", "2/2") == 1
    assert "shard 2/2 does not exist: shards are numbered from 0" in capsys.readouterr().err


def test_a_shard_of_other_settings_is_refused_before_it_writes(
    extract: Extract, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract("--shard", "0/2") == 0
    assert extract("--shard", "1/2", "--model.dtype", "float32") == 1
    assert "is made with other settings (dtype:" in capsys.readouterr().err
    store = FeatureStore.open("s.zarr")
    assert sum(store.slide(slide_id).has(LAYER) for slide_id in store.slide_ids()) == 2


def test_the_same_shard_twice_at_once_is_refused(
    extract: Extract, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract("--shard", "0/2") == 0
    store = FeatureStore.open("s.zarr")
    with store.writing("resnet18-random0 in shard 0/2"):
        assert extract("--shard", "1/2") == 0
        assert extract("--shard", "0/2", "--model.alias", "another") == 0
        assert extract("--shard", "0/2") == 1
    assert "shard 0/2 of s.zarr is being written by process" in capsys.readouterr().err


def test_moved_slides_are_found_and_nothing_is_hashed_twice(
    extract: Extract, painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for path in painted.iterdir():
        (old / path.name).write_bytes(path.read_bytes())
    assert extract(slides=old) == 0
    old.rename(tmp_path / "new")
    assert extract(slides=tmp_path / "new") == 0
    store = FeatureStore.open("s.zarr")
    for slide_id in store.slide_ids():
        assert tile.slide_file(store.slide(slide_id)).parent == tmp_path / "new"

    def hashed(path: Path) -> None:
        pytest.fail(f"{path} was read again")

    with monkeypatch.context() as patch:
        patch.setattr(tile, "fingerprint", hashed)
        assert extract(slides=tmp_path / "new") == 0
    first = store.slide(store.slide_ids()[0])
    tile.slide_file(first).write_bytes(b"another slide")
    with pytest.raises(StoreMismatchError, match="is not the file that was tiled"):
        tile.slide_file(first)
    Path(first.attributes["path"]).unlink()
    with pytest.raises(SlideError, match="give the folder that holds the slides now"):
        tile.slide_file(first)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serve_s3() as endpoint:
        for name, value in (
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}/lab/s.zarr"


def test_extract_and_verify_in_a_bucket(
    extract: Extract, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HISTOTRANSFER_CACHE", str(tmp_path / "cache"))
    assert extract("--shard", "0/2", store=s3) == 0
    assert extract(store=s3) == 0
    assert extract(store="whole.zarr") == 0
    assert _same(FeatureStore.open(s3), FeatureStore.open("whole.zarr"))
    assert main(["verify", "--store", s3]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "whole.zarr"]
    assert not multiprocessing.active_children()


def test_tile_into_a_bucket(extract: Extract, painted: Path, s3: str, tmp_path: Path) -> None:
    grid = ["--data.grid.patch_px", "64", "--data.grid.mpp", "1.0", "--data.qc", "false"]
    for store in (s3, "here.zarr"):
        slides = ["--data.slides", str(painted), "--data.store", store]
        assert main(["tile", *slides, *grid]) == 0
    there, here = FeatureStore.open(s3), FeatureStore.open("here.zarr")
    assert there.slide_ids() == here.slide_ids()
    for slide_id in here.slide_ids():
        assert np.array_equal(there.slide(slide_id).coords(), here.slide(slide_id).coords())
    assert not Path("s3:").exists()


def test_a_bucket_that_forbids_listing_is_one_line(
    extract: Extract,
    s3: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert extract("--shard", "0/2", store=s3) == 0
    direct = os.environ["AWS_ENDPOINT_URL"]
    with failing(direct, 0.0) as proxy:
        proxy.lists = False
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        capsys.readouterr()
        assert main(["verify", "--store", s3]) == 1
        said = "".join(capsys.readouterr())
        assert main(["doctor", "--store", s3]) == 1
        assert "PROBLEM store    s3://" in capsys.readouterr().out
        assert main(["doctor", "--store", f"s3://{BUCKET}/none.zarr"]) == 1
        assert "may not be listed" in capsys.readouterr().out
    monkeypatch.setenv("AWS_ENDPOINT_URL", direct)
    assert main(["doctor", "--store", s3]) == 0
    assert f" slides in {s3}, 0 problems" in capsys.readouterr().out
    assert said.startswith("error: s3://")
    assert "may not be listed: check the credentials" in said
    assert said.count("\n") == 1


def test_a_store_that_can_no_longer_be_written_is_one_line_and_goes_on_later(
    extract: Extract, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace, calls = os.rename, 0

    def refuse(source: str, target: str, **more: int) -> None:
        nonlocal calls
        calls += Path(target).name == "features" and Path(target).parts[-3:-2] == ("s.zarr",)
        if calls > 1:
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        replace(source, target, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        assert extract("--shard", "0/2") == 1
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if "ermission" in line] == [said.splitlines()[-1]]
    store = FeatureStore.open("s.zarr")
    assert sum(store.slide(slide_id).has(LAYER) for slide_id in store.slide_ids()) == 1
    assert store.verify() == []
    assert extract() == 0
    assert extract(store="whole.zarr") == 0
    assert _same(FeatureStore.open("s.zarr"), FeatureStore.open("whole.zarr"))


KILLED = """
import os, sys
from histotransfer_pl.cli.main import main
from histotransfer_pl.store.writer import ArrayWriter
commit = ArrayWriter.commit
def die(self, *more):
    if "layer1" in self._name and os.path.exists("one"):
        os.kill(os.getpid(), 9)
    if "layer1" in self._name:
        open("one", "w").close()
    commit(self, *more)
ArrayWriter.commit = die
main(sys.argv[1:])
"""


def test_a_node_that_dies_within_a_slide_is_completed_by_its_number(
    extract: Extract, painted: Path
) -> None:
    calls: list[list[str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.cli.test_extract_shards.main", calls.append)
        extract("--shard", "0/2")
    died = subprocess.run([sys.executable, "-c", KILLED, *calls[0]], check=False)
    assert died.returncode == -9
    store = FeatureStore.open("s.zarr")
    assert sum(store.slide(slide_id).has(LAYER) for slide_id in store.slide_ids()) == 1
    assert extract("--shard", "1/2") == 0
    assert extract("--shard", "0/2") == 0
    assert extract(store="whole.zarr") == 0
    assert _same(FeatureStore.open("s.zarr"), FeatureStore.open("whole.zarr"))
    assert FeatureStore.open("s.zarr").verify() == []


@pytest.mark.slow
def test_fit_and_predict_from_a_bucket(
    run: Run, cohort: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HISTOTRANSFER_CACHE", str(tmp_path / "cache"))
    assert main(["merge", "--stores", "s.zarr", "--out", s3]) == 0
    assert run("fit") == 0
    assert run("predict") == 0
    local = (cohort / "r/predictions.csv").read_text()
    assert run("fit", "--data.store", s3) == 0
    assert run("predict", "--data.store", s3) == 0
    assert (cohort / "r/predictions.csv").read_text() == local
    store = FeatureStore.open(s3)
    (attention,) = store.attention_runs(store.slide_ids()[:1])
    assert len(store.read_attention(attention, "p00/0")) == store.slide("p00/0").n_patches
    assert not Path("s3:").exists()
