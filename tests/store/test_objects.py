"""Stores in an object store: read, written, damaged, on a network that fails."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from obstore.store import from_url

from histotransfer_pl.errors import StoreError, StoreMismatchError
from histotransfer_pl.store import objects
from histotransfer_pl.store.feature_store import FeatureStore

from .conftest import ATTENTION, FEATURES, GRID, SELECTION, SLIDES, coords_of, features_of
from .s3 import BUCKET, failing, options, serve_s3


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serve_s3() as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTOTRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(objects, "_used_in", [])


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{abs(hash(request.node.nodeid))}/S.zarr"


def _fill(location: str, given: dict[str, Any]) -> FeatureStore:
    store = FeatureStore.open_or_create(location, GRID, given)
    with store.writing():
        for slide_id, n_patches in SLIDES.items():
            slide = store.add_slide(slide_id, coords_of(slide_id), n_patches, {"mpp": 0.25})
            slide.write(FEATURES, features_of(slide_id), {"encoder": "net"})
            slide.write(SELECTION, np.arange(min(n_patches, 8), dtype=np.int32), {})
            store.write_attention("fold 0", slide_id, np.arange(n_patches, dtype=np.float32), {})
    return store


def _assert_whole(store: FeatureStore) -> None:
    assert store.slide_ids() == sorted(SLIDES)
    assert store.verify() == []
    for slide_id in SLIDES:
        slide = store.slide(slide_id)
        assert slide.arrays() == sorted([ATTENTION, FEATURES, SELECTION])
        assert np.array_equal(slide.coords(), coords_of(slide_id))
        assert np.array_equal(slide.read(FEATURES), features_of(slide_id))


def test_a_store_in_a_bucket_is_like_one_in_a_folder(server: str, url: str) -> None:
    _fill(url, options(server))
    store = FeatureStore.open(url, options(server))
    _assert_whole(store)
    slide = store.slide("case 2/slide.svs")
    for rows in ([5, -1, 0, 5], slice(3, 9), slice(None, None, -3), np.arange(40) % 3 == 0, []):
        plain = np.array(rows, np.int64) if isinstance(rows, list) else rows
        assert np.array_equal(slide.read(FEATURES, rows), features_of("case 2/slide.svs")[plain])
    values = slide.read(FEATURES)
    values[0] = 0  # what is read may be changed
    with pytest.raises(StoreError, match="no slide 'b'"):
        store.slide("b").read(FEATURES)
    with pytest.raises(StoreMismatchError, match="another patch grid"):
        FeatureStore.open_or_create(url, {"patch_px": 1}, options(server))
    with pytest.raises(StoreError, match=f"no store at s3://{BUCKET}/nowhere"):
        FeatureStore.open(f"s3://{BUCKET}/nowhere", options(server))


def test_several_chunks_and_zarr_tools(server: str, url: str) -> None:
    store = FeatureStore.open_or_create(url, None, options(server))
    values = np.random.default_rng(0).standard_normal((19, 4)).astype(np.float32)
    with store.writing():
        slide = store.add_slide("s", None, 19)
        slide.write(FEATURES, values, {}, max_chunk_bytes=100)
    assert np.array_equal(slide.read(FEATURES), values)
    assert np.array_equal(slide.read(FEATURES, [18, 0, 7, 6]), values[[18, 0, 7, 6]])
    assert np.array_equal(np.asarray(store.files.array(f"s/{FEATURES}")[:]), values)


def test_a_bag_is_one_request_and_then_none(server: str, url: str, tmp_path: Path) -> None:
    _fill(url, options(server))
    with failing(server, 0.0) as proxy:
        slide = FeatureStore.open(url, options(proxy.endpoint)).slide("a")
        assert slide.n_patches == 17
        proxy.requests.clear()
        slide.read(FEATURES)
        assert [r.split()[0] for r in proxy.requests] == ["GET", "GET"]  # metadata, then values
        assert "bytes=0-203" in proxy.requests[1]
        proxy.requests.clear()
        assert np.array_equal(slide.read(FEATURES), features_of("a"))
        assert np.array_equal(slide.read(FEATURES, [3, 1]), features_of("a")[[3, 1]])
        assert proxy.requests == []  # from the cache


def test_the_cache_is_bounded(
    server: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HISTOTRANSFER_CACHE_GB", "2e-6")
    store = FeatureStore.open_or_create(url, None, options(server))
    values = {f"s{n}": np.full((50, 4), n, np.float32) for n in range(6)}  # 800 bytes each
    with store.writing():
        for slide_id, bag in values.items():
            store.add_slide(slide_id, None, 50).write(FEATURES, bag, {})
    for _ in range(2):
        for slide_id, bag in values.items():
            assert np.array_equal(store.slide(slide_id).read(FEATURES), bag)
    kept = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert 0 < sum(p.stat().st_size for p in kept) <= 2000


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_nothing_is_lost_on_a_network_that_fails(server: str, url: str, seed: int) -> None:
    with failing(server, 0.15, seed) as proxy:
        given = options(proxy.endpoint)
        _fill(url, given)
        _assert_whole(FeatureStore.open(url, given))
        assert len(set(proxy.faults)) >= 4
    _assert_whole(FeatureStore.open(url, options(server)))


def test_a_writer_that_died_left_no_array(
    server: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was sent before the metadata is nothing yet, and is written again."""
    store = _fill(url, options(server))
    real, sent = obstore.put, []

    def dies(*args: Any, **kwargs: Any) -> Any:
        sent.append(args[1])
        if args[1].endswith("other/x/zarr.json"):
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    slide = store.slide("a")
    with store.writing():
        monkeypatch.setattr(obstore, "put", dies)
        with pytest.raises(KeyboardInterrupt):
            slide.write("features/other/x", features_of("a"), {})
        assert sent[-2:] == ["a/features/other/x/c/0/0", "a/features/other/x/zarr.json"]
        monkeypatch.undo()
        again = FeatureStore.open(url, options(server))
        assert not again.slide("a").has("features/other/x")
        assert again.verify() == []
        slide.write("features/other/x", features_of("a"), {})
    assert np.array_equal(slide.read("features/other/x"), features_of("a"))
    assert store.verify() == []


def test_damage_is_found_and_repaired(server: str, url: str) -> None:
    store = _fill(url, options(server))
    bucket = from_url(f"s3://{BUCKET}", **options(server))
    prefix = url.removeprefix(f"s3://{BUCKET}/")
    obstore.put(bucket, f"{prefix}/a/{FEATURES}/c/0/0", bytes(204))
    obstore.delete(bucket, f"{prefix}/case%202%2Fslide.svs/coords/zarr.json")
    store = FeatureStore.open(url, options(server))
    assert {(p.slide_id, p.array) for p in store.verify(repair=True)} == {
        ("a", FEATURES),
        ("case 2/slide.svs", "coords"),
    }
    assert FeatureStore.open(url, options(server)).slide_ids() == ["a", "empty"]
    _assert_whole(_fill_missing(url, options(server)))


def _fill_missing(location: str, given: dict[str, Any]) -> FeatureStore:
    store = FeatureStore.open_or_create(location, GRID, given)
    with store.writing():
        for slide_id, n_patches in SLIDES.items():
            slide = store.add_slide(slide_id, coords_of(slide_id), n_patches, {"mpp": 0.25})
            if not slide.has(FEATURES):
                slide.write(FEATURES, features_of(slide_id), {"encoder": "net"})
            if not slide.has(SELECTION):
                slide.write(SELECTION, np.arange(min(n_patches, 8), dtype=np.int32), {})
            store.write_attention("fold 0", slide_id, np.arange(n_patches, dtype=np.float32), {})
    return store


def test_two_writers_of_one_slide_leave_it_whole(
    server: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one, whose values differ in a bit, comes between our values and our metadata."""
    ours, theirs = (FeatureStore.open_or_create(url, None, options(server)) for _ in range(2))
    with ours.writing():
        ours.add_slide("a", None, 17)
    real, values = obstore.put, features_of("a")

    def between(*args: Any, **kwargs: Any) -> Any:
        if args[1] == f"a/{FEATURES}/zarr.json" and not theirs.slide("a").has(FEATURES):
            monkeypatch.undo()
            with theirs.writing():
                theirs.slide("a").write(FEATURES, values + 1, {})
        return real(*args, **kwargs)

    monkeypatch.setattr(obstore, "put", between)
    with ours.writing():
        ours.slide("a").write(FEATURES, values, {})
    store = FeatureStore.open(url, options(server))
    assert store.verify() == []
    assert np.array_equal(store.slide("a").read(FEATURES), values)


def test_a_server_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_PAUSES", ())
    with pytest.raises(StoreError, match=r"could not be read \(.*\): check address, endpoint and"):
        FeatureStore.open("s3://no-such-bucket-here/S.zarr", options("http://127.0.0.1:9"))


def test_a_path_that_was_a_url_is_one_again(server: str, url: str) -> None:
    _fill(url, options(server))
    assert FeatureStore.open(Path(url), options(server)).location == url
    assert not Path("s3:").exists()
    shutil.rmtree("s3:", ignore_errors=True)


def test_requests_of_a_slide_are_few(server: str, url: str) -> None:
    """The counts of docs/tasks/clusters.md."""
    with failing(server, 0.0) as proxy:
        store = FeatureStore.open_or_create(url, None, options(proxy.endpoint))
        with store.writing():
            proxy.requests.clear()
            slide = store.add_slide("a", coords_of("a"))
            assert len(proxy.requests) <= 6
            for requests, depth in ((14, "x"), (12, "y")):
                proxy.requests.clear()
                slide.write(f"features/e/{depth}", features_of("a"), {})
                assert len(proxy.requests) <= requests
