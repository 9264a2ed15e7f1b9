"""tile and extract through the command line, on painted and on real slides."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from histotransfer_pl.cli.main import main
from histotransfer_pl.data import patch_pool
from histotransfer_pl.data.patch_batch import PatchBatch
from histotransfer_pl.data.patch_source import PatchSource, ReadCost, SlideFile
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.slides.synthetic import paint_cohort
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.tasks.extract import FeatureExtractor

ENCODER = "resnet18-random0"
ARRAYS = [f"features/{ENCODER}/{depth}" for depth in ("stem", "layer1")]
Extract = Callable[..., int]


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painted")
    paint_cohort(folder, n_patients=2, slides_per_patient=1, seed=0, size_px=1104)
    return folder


@pytest.fixture
def slides(painted: Path, tmp_path: Path) -> Path:
    """A copy of the painted slides that a test may break."""
    shutil.copytree(painted / "slides", tmp_path / "slides")
    return tmp_path / "slides"


@pytest.fixture
def extract(slides: Path, tmp_path: Path) -> Extract:
    def call(*arguments: str, verb: str = "extract") -> int:
        data = ["--data.slides", str(slides), "--data.store", str(tmp_path / "s.zarr")]
        grid = ["--data.grid.patch_px", "64", "--data.grid.mpp", "1.0"]
        model = ["--model.encoder", "resnet18", "--model.weights", "random"]
        model += ["--model.depths", "[stem, layer1]", "--data.batch_size", "7"]
        return main([verb, *data, *grid, *(model if verb == "extract" else []), *arguments])

    return call


def open_store(folder: Path) -> FeatureStore:
    return FeatureStore.open(folder / "s.zarr")


def recompute(store: FeatureStore, slide_id: str, path: Path, encoder: str = "") -> np.ndarray:
    """Encode the patches of a slide one by one, read where the coordinates say."""
    assert store.grid is not None
    grid = GridSettings.from_json(store.grid)
    network = build_encoder(EncoderConfig("resnet18", weights="random", depths=["layer1"]))
    slide = store.slide(slide_id)
    with open_slide(path, float(slide.attributes["slide_mpp"])) as reader, torch.inference_mode():
        rows = [
            network(
                torch.from_numpy(reader.read_patch(int(x), int(y), grid.patch_px, grid.mpp))[None]
            )["layer1"][0].numpy()
            for x, y in slide.coords()
        ]
    return np.stack(rows)


def test_row_i_is_the_patch_at_coords_i(extract: Extract, slides: Path, tmp_path: Path) -> None:
    assert extract("--model.dtype", "float32") == 0
    store = open_store(tmp_path)
    for path in sorted(slides.iterdir()):
        slide = store.slide(path.stem)
        assert slide.n_patches > 7
        found = slide.read(ARRAYS[1])
        np.testing.assert_allclose(found, recompute(store, path.stem, path), atol=1e-4)
    assert store.verify() == []


def test_nothing_on_the_way_changes_a_bit(extract: Extract, slides: Path, tmp_path: Path) -> None:
    assert extract("--model.dtype", "float32", "--data.batch_size", "1") == 0
    store = open_store(tmp_path)
    for path in sorted(slides.iterdir()):
        found = store.slide(path.stem).read(ARRAYS[1])
        np.testing.assert_array_equal(found, recompute(store, path.stem, path))


@pytest.mark.slow
def test_compiled_encoders_give_the_same_features(
    extract: Extract, slides: Path, tmp_path: Path
) -> None:
    assert extract("--model.dtype", "float32", "--model.compiled", "true") == 0
    store = open_store(tmp_path)
    for path in sorted(slides.iterdir()):
        found = store.slide(path.stem).read(ARRAYS[1])
        np.testing.assert_allclose(found, recompute(store, path.stem, path), atol=1e-4)


def test_again_skips_and_only_what_is_missing_is_computed(
    extract: Extract, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract()
    before = open_store(tmp_path).slide("patient_00_slide_0").read(ARRAYS[0])
    capsys.readouterr()
    assert extract() == 0
    assert "2 skipped" in capsys.readouterr().out
    assert extract("--model.depths", "[stem, layer1, layer2]") == 0
    slide = open_store(tmp_path).slide("patient_00_slide_0")
    assert slide.read(f"features/{ENCODER}/layer2").shape == (slide.n_patches, 128)
    np.testing.assert_array_equal(slide.read(ARRAYS[0]), before)


def test_tiling_first_gives_the_same_store(extract: Extract, tmp_path: Path) -> None:
    assert extract(verb="tile") == 0
    store = open_store(tmp_path)
    assert store.slide("patient_00_slide_0").arrays() == []
    thumbnails = sorted((tmp_path / "s_qc").iterdir())
    assert len(thumbnails) == 2
    with Image.open(thumbnails[0]) as image:
        assert min(image.size) > 50
    coords = store.slide("patient_00_slide_0").coords()
    assert extract() == 0
    np.testing.assert_array_equal(open_store(tmp_path).slide("patient_00_slide_0").coords(), coords)


def test_two_encoders_and_their_depths_in_one_pass(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from histotransfer_pl.slides.reader import OpenSlideReader

    reads: list[tuple[int, int]] = []
    plain = OpenSlideReader.read_patch

    def counted(self: OpenSlideReader, x: int, y: int, px: int, mpp: float) -> np.ndarray:
        reads.append((x, y))
        return plain(self, x, y, px, mpp)

    monkeypatch.setattr(OpenSlideReader, "read_patch", counted)
    config = tmp_path / "two.yaml"
    config.write_text(
        f"data: {{slides: {slides}, store: {tmp_path / 's.zarr'}, qc: false,"
        " grid: {patch_px: 64, mpp: 1.0}}\n"
        "model:\n  encoder:\n"
        "  - {name: resnet18, weights: random, depths: [stem, layer2]}\n"
        "  - {name: mobilenetv2_100, weights: random, depths: [stem], seed: 3}\n"
    )
    assert main(["extract", "--config", str(config)]) == 0
    store = open_store(tmp_path)
    arrays = store.slide("patient_00_slide_0").arrays()
    assert len(arrays) == 3
    assert len(reads) == sum(store.slide(s).n_patches for s in store.slide_ids())


def test_broken_slides_are_reported_and_the_others_done(
    extract: Extract, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (slides / "text.svs").write_text("this is no slide")
    whole = (slides / "patient_00_slide_0.tiff").read_bytes()
    (slides / "truncated.tiff").write_bytes(whole[: len(whole) // 3])
    blank = Image.fromarray(np.full((600, 600, 3), 255, np.uint8))
    blank.save(slides / "blank.tif", compression="tiff_adobe_deflate", tile=(256, 256))
    assert extract() == 3
    out = capsys.readouterr().out
    assert "2 done" in out
    assert "failed" in out
    assert sorted(s for s in open_store(tmp_path).slide_ids() if s.startswith("patient")) == [
        "patient_00_slide_0",
        "patient_01_slide_0",
    ]
    assert open_store(tmp_path).verify() == []


def test_a_corrupt_region_costs_its_own_slide_only(
    extract: Extract, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tiling reads a low level and succeeds; a tile of level 0 is damaged."""
    import tifffile

    path = slides / "patient_00_slide_0.tiff"
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        middle = len(page.dataoffsets) // 2
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))[
            middle - 3 : middle + 3
        ]
    content = bytearray(path.read_bytes())
    for offset, count in places:
        content[offset : offset + count] = b"\xff" * count
    path.write_bytes(bytes(content))
    assert extract("--data.grid.mpp", "0.5") == 3
    out = capsys.readouterr().out
    assert "1 done, 1 failed" in out
    store = open_store(tmp_path)
    assert store.slide("patient_00_slide_0").arrays() == []
    assert len(store.slide("patient_01_slide_0").arrays()) == 2


def test_another_grid_encoder_or_precision_is_refused(
    extract: Extract, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract()
    before = open_store(tmp_path).slide("patient_00_slide_0").read(ARRAYS[0])
    for arguments, message in (
        (["--data.grid.patch_px", "32"], "patch_px: the store has 64, asked for 32"),
        (["--model.seed", "5", "--model.alias", ENCODER], "weights_sha256"),
        (["--model.dtype", "float32"], "dtype: the store has 'float16'"),
        (["--trainer.precision", "bf16-mixed"], "precision: the store has '32-true'"),
    ):
        assert extract(*arguments) == 1
        assert message in capsys.readouterr().err
    np.testing.assert_array_equal(
        open_store(tmp_path).slide("patient_00_slide_0").read(ARRAYS[0]), before
    )


def test_a_changed_slide_file_is_reported(
    extract: Extract, slides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(verb="tile")
    path = slides / "patient_00_slide_0.tiff"
    path.write_bytes(path.read_bytes() + b"more")
    assert extract() == 3
    assert "is not the file that was" in " ".join(capsys.readouterr().err.split())


def test_a_second_extraction_into_the_store_is_refused(
    extract: Extract, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(verb="tile")
    with open_store(tmp_path).writing("resnet18-random0"):
        assert extract() == 1
    assert "error:" in capsys.readouterr().err
    assert extract() == 0
    assert open_store(tmp_path).slide("patient_00_slide_0").has("features/resnet18-random0/stem")


def test_ids_from_a_table_never_leave_the_store(slides: Path, tmp_path: Path) -> None:
    names = ["../../evil", "a/b", "ü ñ", "."]
    path = "patient_00_slide_0.tiff"
    pd.DataFrame({"slide_id": names, "path": path}).to_csv(tmp_path / "c.csv", index=False)
    data = ["--data.slides", str(slides), "--data.cohort", str(tmp_path / "c.csv")]
    code = main(["tile", *data, "--data.store", str(tmp_path / "in" / "s.zarr")])
    assert code == 0
    assert FeatureStore.open(tmp_path / "in" / "s.zarr").slide_ids() == sorted(names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.csv", "in", "slides"]
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["s.zarr", "s_qc"]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_killed_extraction_goes_on(
    slides: Path, tmp_path: Path, extract: Extract, workers: str
) -> None:
    """Ctrl-C in the middle: what was complete verifies, and the same command ends the work."""
    script = (
        "import signal, sys, time\n"
        # A shell without job control starts what runs behind it with this signal ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import histotransfer_pl.data.patch_pool as p\n"
        "p._SLOT_BYTES = 1\n"
        "import histotransfer_pl.tasks.extract as e\n"
        "step = e.FeatureExtractor.predict_step\n"
        "def slow(self, batch, number):\n"
        "    time.sleep(0.4)\n"
        "    return step(self, batch, number)\n"
        "e.FeatureExtractor.predict_step = slow\n"
        "from histotransfer_pl.cli.main import main\n"
        "if __name__ == '__main__': sys.exit(main(sys.argv[1:]))\n"
    )
    (tmp_path / "slow.py").write_text(script)
    arguments = ["extract", "--data.slides", str(slides), "--data.store", str(tmp_path / "s.zarr"),
                 "--data.grid.patch_px", "64", "--data.grid.mpp", "1.0", "--data.batch_size", "7",
                 "--model.encoder", "resnet18", "--model.weights", "random",
                 "--model.depths", "[stem, layer1]", "--data.num_workers", workers]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py"), *arguments], start_new_session=True
    )
    first = [tmp_path / "s.zarr" / f"patient_0{i}_slide_0" / "features" for i in range(2)]
    deadline = time.monotonic() + 120
    while not any(p.exists() for p in first) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(120) in (1, 130)
    assert _ends(process.pid)
    assert open_store(tmp_path).verify() == []
    assert extract() == 0
    store = open_store(tmp_path)
    assert all(store.slide(s).has(name) for s in store.slide_ids() for name in ARRAYS)
    assert store.verify() == []


def _ends(group: int) -> bool:
    """Whether no process of a group is left within some seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_reading_in_processes_gives_the_same_features(
    extract: Extract, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract("--data.num_workers", "2", "--model.dtype", "float32") == 0
    out = capsys.readouterr().out
    assert " of 2 processes (files " in out
    assert "1.00 decodes per tile" in out
    assert "bottleneck: " in out
    store = open_store(tmp_path)
    for path in sorted(slides.iterdir()):
        found = store.slide(path.stem).read(ARRAYS[1])
        np.testing.assert_allclose(found, recompute(store, path.stem, path), atol=1e-4)


def test_a_killed_reading_process_is_one_line_and_what_is_complete_stays(
    extract: Extract,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = FeatureExtractor.predict_step
    monkeypatch.setattr(patch_pool, "_SLOT_BYTES", 1)

    def killing(self: FeatureExtractor, batch: PatchBatch, batch_idx: int) -> dict[str, Tensor]:
        if open_store(tmp_path).slide("patient_00_slide_0").arrays():
            for child in multiprocessing.active_children():
                child.kill()
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractor, "predict_step", killing)
        assert extract("--data.num_workers", "1") == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error:")]
    assert "a reading process was killed by signal 9" in line
    store = open_store(tmp_path)
    assert len(store.slide("patient_00_slide_0").arrays()) == 2
    assert store.slide("patient_01_slide_0").arrays() == []
    assert extract() == 0
    assert open_store(tmp_path).verify() == []


def test_without_memory_to_share_threads_read_and_say_so(
    extract: Extract, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert extract("--data.num_workers", "2") == 0
    out, err = capsys.readouterr()
    assert "no memory for 2 reading processes to share" in err
    assert "2 done" in out
    assert " threads (files " in out


def test_a_slide_that_stalls_is_named_and_the_other_is_done(
    extract: Extract, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = PatchSource.read_into

    def stalling(
        self: PatchSource, images: np.ndarray, place: int, slide: SlideFile, rows: Iterable[int]
    ) -> ReadCost:
        if slide.slide_id == "patient_00_slide_0":
            time.sleep(5)
        return read(self, images, place, slide, rows)

    monkeypatch.setattr(PatchSource, "read_into", stalling)
    assert extract("--data.timeout_s", "1") == 3
    out, err = capsys.readouterr()
    assert "1 done, 1 failed" in out
    assert "patient_00_slide_0.tiff gave nothing for 1 s" in " ".join(err.split())


class TestRealSlides:
    def run(self, source: Path, tmp_path: Path, *arguments: str) -> int:
        folder = tmp_path / "slides"
        folder.mkdir(exist_ok=True)
        if not (folder / source.name).exists():
            (folder / source.name).symlink_to(source)
        return main(
            ["extract", "--data.slides", str(folder), "--data.store", str(tmp_path / "s.zarr"),
             "--model.encoder", "resnet18", "--model.weights", "random",
             "--model.depths", "[layer1]", "--model.dtype", "float32",
             "--data.grid.patch_px", "128", "--data.grid.mpp", "1.0", *arguments]
        )  # fmt: skip

    def test_aperio(self, data_root: Path, tmp_path: Path) -> None:
        source = data_root / "wsi_real" / "CMU-1-Small-Region.svs"
        assert self.run(source, tmp_path) == 0
        store = open_store(tmp_path)
        slide = store.slide(source.stem)
        assert 10 < slide.n_patches < 60
        np.testing.assert_allclose(
            slide.read(ARRAYS[1]), recompute(store, source.stem, source), atol=1e-4
        )

    def test_no_mpp_says_so_and_works_with_it(
        self, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = data_root / "wsi_real" / "tcga-cr-7395-01a-01-ts1.svs"
        assert self.run(source, tmp_path) == 3
        err = " ".join(capsys.readouterr().err.split())
        assert source.stem in err
        assert "mpp" in err
        assert self.run(source, tmp_path, "--data.slide_mpp", "0.5") == 0
        assert open_store(tmp_path).slide(source.stem).n_patches > 20

    def test_hamamatsu_fluorescence(self, data_root: Path, tmp_path: Path) -> None:
        source = data_root / "wsi_real" / "test3-DAPI-2-387.ndpi"
        assert self.run(source, tmp_path, "--data.grid.tissue.method", "none") == 0
        assert open_store(tmp_path).slide(source.stem).n_patches > 0

    def test_format_fixtures(
        self, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = data_root / "wsi_real" / "format_fixtures"
        store = ["--data.store", str(tmp_path / "s.zarr")]
        code = main(
            ["tile", "--data.slides", str(folder), *store, "--data.slide_mpp", "0.5",
             "--data.grid.patch_px", "16", "--data.grid.tissue.method", "none"]
        )  # fmt: skip
        assert code == 3
        out = capsys.readouterr().out
        assert "3 failed" in out
        assert len(open_store(tmp_path).slide_ids()) >= 2
