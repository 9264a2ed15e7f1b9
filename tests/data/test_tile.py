"""Tiling a cohort: a bad slide fails alone, and pictures are whole."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tifffile
from PIL import Image

from histotransfer_pl.cli.main import main
from histotransfer_pl.cli.outcomes import print_outcomes
from histotransfer_pl.data.cohort import SlideEntry, slides_from_folder
from histotransfer_pl.data.tile import SlideOutcome, TileJob, tile_all
from histotransfer_pl.records.grid import GridSettings, TissueSettings
from histotransfer_pl.slides.qc import is_whole_png
from histotransfer_pl.store.feature_store import FeatureStore
from tests.slides.tiffs import TILE_PX, jpeg, promise, set_tag, tissue, write_plain, write_tiles

GRID = GridSettings(32, 0.5, tissue=TissueSettings("none"))
MakeJob = Callable[..., TileJob]


@pytest.fixture
def make_job(tmp_path: Path) -> Iterator[MakeJob]:
    store = FeatureStore.open_or_create(tmp_path / "s.zarr", GRID.for_store())

    def make(qc: bool = True, **settings: float) -> TileJob:
        return TileJob(store, GRID, qc_folder=tmp_path / "qc" if qc else None, **settings)  # type: ignore[arg-type]

    with store.writing():
        yield make


def write_damaged(folder: Path) -> None:
    """A slide of each kind that ended whole jobs."""
    folder.mkdir()
    plain = tissue(250, 300)
    for name, tag, value, kind, count in (
        ("list", "Compression", 8, 3, 2),
        ("bytes", "TileWidth", 64, 1, 1),
        ("short", "TileByteCounts", 20, 4, 1),
        ("huge", "TileLength", 1 << 24, 4, 1),
    ):
        set_tag(
            write_plain(folder / f"{name}.tif", plain, plain[::2, ::2]), tag, value, kind, count
        )
    tiles = [jpeg(tissue(TILE_PX, TILE_PX))] * 3
    bomb = promise(jpeg(tissue(TILE_PX, TILE_PX), progressive=True), 65_500, 65_500)
    write_tiles(folder / "bomb.tif", [*tiles, bomb], columns=2, photometric="rgb")
    write_plain(folder / "nothing.tif", plain, mpp=1000)
    (folder / "text.tif").write_text("no slide")
    for name in ("good", "other"):
        write_plain(folder / f"{name}.tif", plain)


GOOD = ["good", "other"]


def test_a_bad_slide_is_an_outcome_and_the_others_go_on(make_job: MakeJob, tmp_path: Path) -> None:
    write_damaged(tmp_path / "slides")
    entries = slides_from_folder(tmp_path / "slides")
    outcomes = {outcome.slide_id: outcome for outcome in tile_all(make_job(), entries)}
    assert [name for name, outcome in outcomes.items() if outcome.state == "done"] == GOOD
    assert sum(outcome.state == "failed" for outcome in outcomes.values()) == len(entries) - 2
    for outcome in outcomes.values():
        assert outcome.state == "done" or f"{outcome.slide_id}.tif" in outcome.reason
    assert "a tile of 65500 x 65500 px" in outcomes["bomb"].reason


def test_extract_goes_on_too_and_leaves_with_3(tmp_path: Path) -> None:
    write_damaged(tmp_path / "slides")
    arguments = [
        "--data.slides",
        str(tmp_path / "slides"),
        "--data.store",
        str(tmp_path / "e.zarr"),
    ]
    grid = ["--data.grid.patch_px", "32", "--data.grid.tissue.method", "none", "--data.qc", "false"]
    model = ["--model.encoder", "timm:test_resnet", "--model.weights", "random"]
    assert main(["tile", *arguments, *grid]) == 3
    assert main(["extract", *arguments, *grid, *model]) == 3
    store = FeatureStore.open(tmp_path / "e.zarr")
    assert store.slide_ids() == GOOD
    assert all(len(store.slide(name).arrays()) == 1 for name in GOOD)


def test_a_slide_of_unknown_resolution_is_read_in_its_own_pixels(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    tifffile.imwrite(tmp_path / "slides" / "a.tif", tissue(128, 128), tile=(64, 64))
    arguments = [
        "--data.slides",
        str(tmp_path / "slides"),
        "--data.store",
        str(tmp_path / "n.zarr"),
    ]
    grid = [
        "--data.grid.patch_px",
        "32",
        "--data.grid.mpp",
        "2",
        "--data.grid.tissue.method",
        "none",
    ]
    assert main(["tile", *arguments, *grid]) == 3
    assert main(["tile", *arguments, *grid, "--data.slide_mpp", "native"]) == 0
    slide = FeatureStore.open(tmp_path / "n.zarr").slide("a")
    assert slide.n_patches == 16
    assert slide.attributes["patch_size_level0"] == 32
    assert main(["tile", *arguments, *grid, "--data.slide_mpp", "2000"]) == 1


def test_a_coarse_slide_needs_leave_to_be_enlarged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slides").mkdir()
    write_plain(tmp_path / "slides" / "a.tif", tissue(128, 128), mpp=5.0)
    arguments = [
        "--data.slides",
        str(tmp_path / "slides"),
        "--data.store",
        str(tmp_path / "c.zarr"),
    ]
    grid = ["--data.grid.patch_px", "32", "--data.grid.tissue.method", "none"]
    assert main(["tile", *arguments, *grid]) == 3
    assert "10 times" in " ".join(capsys.readouterr().out.split())
    assert main(["doctor", "--slides", str(tmp_path / "slides"), "--grid.patch_px", "32"]) == 1
    assert (
        "a.tif has 5 um per pixel: patches at 0.5 um would be enlarged 10"
        in capsys.readouterr().out
    )
    assert main(["tile", *arguments, *grid, "--data.grid.allow_enlarging", "true"]) == 0
    assert main(["tile", *arguments, *grid]) == 0  # what is in the store stays


@pytest.mark.parametrize("left", [None, 0, 10, -1])
def test_a_picture_that_is_missing_or_cut_is_drawn_again(
    make_job: MakeJob, tmp_path: Path, left: int | None
) -> None:
    entry = SlideEntry("a", write_plain(tmp_path / "a.tif", tissue(250, 300)))
    job = make_job()
    assert job.run(entry).state == "done"
    picture = tmp_path / "qc" / "a.png"
    whole, before = picture.read_bytes(), picture.stat().st_mtime_ns
    assert is_whole_png(picture)
    assert job.run(entry).state == "skipped"
    assert picture.stat().st_mtime_ns == before
    if left is None:
        picture.unlink()
    else:
        picture.write_bytes(whole[:left])
    assert job.run(entry).state == "skipped"
    assert picture.read_bytes() == whole
    assert list(picture.parent.iterdir()) == [picture]


def test_a_picture_appears_whole_or_not_at_all(
    make_job: MakeJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(image: Image.Image, target: Path, *_: object, **__: object) -> None:
        target.write_bytes(b"\x89PNG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    entry = SlideEntry("a", write_plain(tmp_path / "a.tif", tissue(250, 300)))
    with caplog.at_level(logging.WARNING):
        assert make_job().run(entry).state == "done"
    assert "a: its picture cannot be written: [Errno 28] No space left" in caplog.text
    assert list((tmp_path / "qc").iterdir()) == []
    assert make_job(qc=False).run(entry).state == "skipped"


def test_memory_of_a_slide_is_a_setting(make_job: MakeJob, tmp_path: Path) -> None:
    entry = SlideEntry("a", write_plain(tmp_path / "a.tif", tissue(250, 300)))
    outcome = make_job(memory_gib=1e-5).run(entry)
    assert outcome.state == "failed"
    assert "data.slide_memory_gib" in outcome.reason
    assert make_job().run(entry).state == "done"


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["[b]", ":b:", "[/red]", "a[bold]b"]
    outcomes = {name: SlideOutcome(name, "failed", reason=f"why {name}") for name in names}
    print_outcomes(outcomes, "tile into [x]")
    out = capsys.readouterr().out
    for name in names:
        assert out.count(name) == 2
    assert "tile into [x]" in out
