"""Extraction against the encoder alone: `python -m benchmarks.extraction`."""

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Literal

import torch
from lightning import Trainer
from torch import Tensor

from benchmarks.material import whole_grid, write_slides
from benchmarks.program import run
from benchmarks.result import Result, compare, from_times, rounds_in_time, seconds
from benchmarks.sparse_slide import write_large_slides
from histotransfer_pl.callbacks.feature_writer import FeatureWriter
from histotransfer_pl.callbacks.summary import describe_timings
from histotransfer_pl.data.patches import PatchDataModule
from histotransfer_pl.encoders.encoder import PatchEncoder
from histotransfer_pl.slides.synthetic import SYNTHETIC_MPP
from histotransfer_pl.tasks.extract import FeatureExtractor
from histotransfer_pl.tasks.heap import keep_freed_memory


class Extraction:
    """Slides that are tiled into a store, and extracted under a new name each time."""

    def __init__(
        self,
        folder: Path,
        slides: Path,
        patch_px: int,
        batch_size: int | None,
        device: str,
        encoder: str,
        patch_mpp: float = SYNTHETIC_MPP,
        *,
        compiled: bool = False,
        num_workers: int | None = None,
        store: str | None = None,
    ) -> None:
        self.device = device
        self.encoder = encoder
        self.compiled = compiled
        self.runs = 0
        self.writer = FeatureWriter()
        self._arguments = {
            "store": store or folder / f"{slides.name}.zarr",
            "slides": slides,
            "grid": whole_grid(patch_px, patch_mpp),
            "qc": False,
            "batch_size": batch_size,
            "num_workers": num_workers,
        }
        data = self._data()
        data.prepare_data()
        data.teardown("predict")
        names = data.store.slide_ids()
        self.patches = sum(data.store.slide(name).n_patches for name in names)

    def prepare(self, depths: list[str]) -> Callable[[], object]:
        """An extraction that only has to run: network, datamodule and Trainer are made."""
        self.runs += 1
        task = self.task(depths, f"run{self.runs}")
        self.writer = FeatureWriter()
        trainer = Trainer(
            accelerator="gpu" if self.device == "cuda" else "cpu",
            devices=1,
            precision="16-mixed" if self.device == "cuda" else "32-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[self.writer],
        )
        data = self._data()
        return lambda: trainer.predict(task, data)

    def task(self, depths: list[str] | Literal["last"], alias: str) -> FeatureExtractor:
        """The task with a fresh network."""
        return FeatureExtractor(self.encoder, "random", depths, alias=alias, compiled=self.compiled)

    def prepared_data(self) -> PatchDataModule:
        """All patches, ready to be read; the store's lock is free again."""
        data, task = self._data(), self.task("last", "never stored")
        data.trainer = Trainer(
            accelerator="gpu" if self.device == "cuda" else "cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
        )
        data.trainer.strategy.connect(task)
        data.prepare_data()
        data.setup("predict")
        data.teardown("predict")
        return data

    def prepare_reading(self) -> Callable[[], None]:
        """Reading of all patches, without an encoder; on a GPU as far as its memory."""
        data = self.prepared_data()

        def read() -> None:
            with closing(data.predict_dataloader()) as feed:
                for _ in feed:
                    pass

        return read

    def _data(self) -> PatchDataModule:
        return PatchDataModule(**self._arguments)  # type: ignore[arg-type]


def measure(
    patches: int | None = None,
    slides: int | None = None,
    patch_px: int = 224,
    batch_size: int | None = None,
    rounds: int = 4,
    encoder: str = "resnet18",
    device: str = "cpu",
    *,
    compiled: bool = False,
) -> list[Result]:
    """Patches per second into the store by those of the encoder on batches in memory.

    On a GPU the reference is the slower of the encoder and of reading alone.

    Args:
        patches: Patches of all slides, about; by default 144 on the CPU and 25,600 on a GPU, and
            then one slide of 102,400 as well.
        slides: Slides of the row with many slides; by default 16 on the CPU and 30 on a GPU.
        patch_px: Side of a patch.
        batch_size: Patches of a batch; by default 32 on the CPU and 256 on a GPU.
        rounds: Rounds.
        encoder: Name of the encoder; its weights are random.
        device: cpu or cuda.
        compiled: Let torch.compile make the kernels, in both ways; a row tells what that gains.
    """
    keep_freed_memory()  # for both ways
    on_gpu = device == "cuda"
    sizes = [(1, patches or 144), (slides or 16, patches or 144)]
    if on_gpu:
        sizes = [(1, patches or 25_600), (slides or 30, patches or 25_600)]
        # What a job costs once, whatever its size, is a fifth of its time at 25,600 patches.
        sizes += [] if patches else [(1, 102_400)]
    batch_size = batch_size or (256 if on_gpu else 32)
    write = write_large_slides if on_gpu else write_slides
    results = []
    for count, wanted in sizes:
        side = max(1, round((wanted / count) ** 0.5)) * patch_px
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder / "slides", count, side)
            work = Extraction(
                folder,
                folder / "slides",
                patch_px,
                batch_size,
                device,
                encoder,
                compiled=compiled,
            )
            results.append(_compare(work, count, batch_size, patch_px, rounds))
    return [*results, _compiling(work, batch_size, patch_px, rounds)] if compiled else results


def _compiling(work: Extraction, batch_size: int, patch_px: int, rounds: int) -> Result:
    """What torch.compile gains, after it has compiled."""
    batches = _batches(work, batch_size, patch_px)
    eager, compiled = (_network(work, compiled=choice) for choice in (False, True))
    return compare(
        f"encoding {work.patches} patches with torch.compile, vs without",
        1.0,
        lambda _: encode(compiled, batches, work.device),
        lambda _: encode(eager, batches, work.device),
        rounds,
        speedup=True,
        notes=work.encoder,
        device=work.device,
    )


def _network(work: Extraction, *, compiled: bool) -> PatchEncoder:
    task = FeatureExtractor(work.encoder, "random", compiled=compiled).to(work.device)
    (network,) = (item for item in task.encoders if isinstance(item, PatchEncoder))
    return network


def _batches(work: Extraction, batch_size: int, patch_px: int) -> list[Tensor]:
    """The same random patches again and again, cut into batches as the extraction cuts them."""
    full, rest = divmod(work.patches, batch_size)
    shape = (batch_size, patch_px, patch_px, 3)
    batch = torch.randint(0, 256, shape, dtype=torch.uint8, device=work.device)
    return [batch] * full + ([batch[:rest]] if rest else [])


def _compare(work: Extraction, slides: int, batch_size: int, patch_px: int, rounds: int) -> Result:
    network = _network(work, compiled=work.compiled)
    batches = _batches(work, batch_size, patch_px)
    work.prepare(network.depths)()
    encode(network, batches, work.device)
    ours, alone = [], []
    for _ in rounds_in_time(rounds):
        alone.append(seconds(lambda: encode(network, batches, work.device)))
        if work.device == "cuda":
            alone[-1] = max(alone[-1], seconds(work.prepare_reading()))
        ours.append(seconds(work.prepare(network.depths)))
    against = "encoder or reader alone" if work.device == "cuda" else "encoder alone"
    return from_times(
        f"extraction of {slides} slides, {work.patches} patches, vs {against}",
        0.9 if work.device == "cuda" else 0.95,
        ours,
        alone,
        speedup=True,
        notes=f"{work.encoder}, {describe_timings(work.writer.timings)}",
        device=work.device,
        amount=work.patches,
        unit="patches",
    )


@torch.inference_mode()
def encode(network: PatchEncoder, batches: list[Tensor], device: str) -> None:
    """Encode batches that lie on the device; in fp16 on a GPU, which is waited for once."""
    network.eval()
    with torch.autocast(device, torch.float16, enabled=device == "cuda"):
        for batch in batches:
            for values in network(batch).values():
                values.float()
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    run("extraction", measure, {"patches": 16, "slides": 4, "patch_px": 64, "rounds": 2})
