"""A few seconds of reading and encoding, for an estimate."""

from pathlib import Path

import pytest
import torch

from histotransfer_pl.data import patches
from histotransfer_pl.data.cohort import slides_from_folder
from histotransfer_pl.data.patches import PatchDataModule, Reading, choose_reading
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.slides.synthetic import paint_cohort
from histotransfer_pl.tasks import throughput
from histotransfer_pl.tasks.throughput import Throughput, measure_throughput

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("workers", [0, 1])
def test_both_rates_are_measured_on_real_slides(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint_cohort(tmp_path, n_patients=1, slides_per_patient=2, seed=0, size_px=800)
    entries = slides_from_folder(tmp_path / "slides")
    encoder = build_encoder(EncoderConfig("timm:test_resnet", "random"))
    grid = GridSettings(patch_px=96, mpp=1.0)
    monkeypatch.setattr(throughput, "choose_reading", lambda _: Reading(CPU, 8, workers, 1))
    found = measure_throughput(encoder, entries, grid, CPU, seconds=0.2)
    assert found.reading > 1
    assert found.encoding > 1
    assert found.patches_per_s < min(found.reading, found.encoding)
    assert ("1 processes" if workers else "1 threads") in found.describe()


def test_on_a_gpu_the_slower_of_both_counts() -> None:
    found = Throughput(9000, 12_000, Reading(GPU, 256, 15, 16))
    assert found.patches_per_s == 9000
    assert "reading 9000 patches/s in 15 processes, encoding 12000 on cuda" in found.describe()
    assert found.describe().endswith("about 9000 together, reading is the limit")
    assert Throughput(100, 100, Reading(CPU, 32, 0, 2)).patches_per_s == 50
    assert Throughput(0, 100, Reading(CPU, 32, 0, 2)).patches_per_s == 100


def test_defaults_follow_from_the_device_and_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "available_cores", lambda: 16)
    assert choose_reading(GPU) == Reading(GPU, 256, workers=15, threads=16)
    assert choose_reading(GPU, devices=4) == Reading(GPU, 256, workers=3, threads=4)
    assert choose_reading(CPU) == Reading(CPU, 32, workers=0, threads=2)
    monkeypatch.setattr(patches, "available_cores", lambda: 1)
    assert choose_reading(GPU) == Reading(GPU, 256, workers=1, threads=1)
    assert choose_reading(CPU) == Reading(CPU, 32, workers=0, threads=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "data.batch_size is 0, expected 1 or more"),
        ({"num_workers": -1}, "data.num_workers is -1, expected 0 or more"),
        ({"threads": 0}, "data.threads is 0"),
        ({"timeout_s": 0}, "data.timeout_s is 0"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PatchDataModule(Path("s.zarr"), slides=Path(), **wrong)  # type: ignore[arg-type]
