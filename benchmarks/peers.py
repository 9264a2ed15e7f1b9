"""Extraction against the way of most tools: `python -m benchmarks.peers`.

That way: a Dataset that reads each patch with ``OpenSlide.read_region``, turns it into a float
tensor, in DataLoader workers; a network from timm, mixed precision on a GPU; one array at the end.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from openslide import OpenSlide
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor
from typing_extensions import override

from benchmarks.extraction import Extraction
from benchmarks.material import write_slides
from benchmarks.program import run
from benchmarks.result import Result, from_times, rounds_in_time, seconds
from benchmarks.sparse_slide import write_large_slides
from histotransfer_pl.callbacks.summary import describe_bottleneck
from histotransfer_pl.data.cores import available_cores
from histotransfer_pl.tasks.heap import keep_freed_memory

TO_TENSOR = Compose([ToTensor(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])


class PlainPatches(Dataset[Tensor]):
    """Patches of one slide."""

    def __init__(self, path: Path, coords: NDArray[np.int32], patch_px: int) -> None:
        self.path, self.coords, self.patch_px = path, coords, patch_px
        self.slide: Any = None

    def __len__(self) -> int:
        return len(self.coords)

    @override
    def __getitem__(self, row: int) -> Tensor:
        self.slide = self.slide or OpenSlide(self.path)
        x, y = self.coords[row].tolist()
        image = self.slide.read_region((x, y), 0, (self.patch_px, self.patch_px)).convert("RGB")
        pixels: Tensor = TO_TENSOR(image)  # (3, P, P)
        return pixels


def measure(
    slides: int = 2,
    patches: int | None = None,
    patch_px: int = 224,
    encoder: str = "resnet18",
    rounds: int = 3,
    device: str = "cpu",
) -> list[Result]:
    """Patches per second into the store by those of the peers' way, default settings.

    Args:
        slides: Slides.
        patches: Patches of a slide, about; by default 64 on the CPU and 12,544 on a GPU.
        patch_px: Side of a patch.
        encoder: Name of the network in timm and in the catalogue; its weights are random.
        rounds: Rounds.
        device: cpu or cuda.
    """
    keep_freed_memory()
    network = timm.create_model(encoder, num_classes=0).eval().to(device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        on_gpu = device == "cuda"
        side = max(1, round((patches or (12_544 if on_gpu else 64)) ** 0.5)) * patch_px
        write = write_large_slides if on_gpu else write_slides
        paths = write(folder / "slides", slides, side)
        work = Extraction(folder, folder / "slides", patch_px, None, device, encoder)
        stored = work.prepared_data().store
        coords = [stored.slide(path.stem).coords() for path in paths]
        workers = available_cores()
        ours, theirs = [], []
        for _ in rounds_in_time(rounds + 1, least=3):  # the first one warms up
            ours.append(seconds(work.prepare(["layer4"])))
            theirs.append(
                seconds(
                    lambda: [
                        plain(network, path, places, patch_px, workers, device)
                        for path, places in zip(paths, coords, strict=True)
                    ]
                )
            )
    return [
        from_times(
            f"extraction of {slides} slides vs the peers' way (OpenSlide in {workers} DataLoader "
            "workers, PIL, autocast on a GPU)",
            *(2.0 if on_gpu else 1.0, ours[1:], theirs[1:]),
            speedup=True,
            notes=f"{encoder}; {describe_bottleneck(work.writer.timings)}",
            device=device,
            amount=work.patches,
            unit="patches",
        )
    ]


@torch.inference_mode()
def plain(
    network: torch.nn.Module,
    path: Path,
    coords: NDArray[np.int32],
    patch_px: int,
    workers: int,
    device: str,
) -> NDArray[np.float16]:
    """Features (N, D) of one slide."""
    on_gpu = device == "cuda"
    loader = DataLoader(
        PlainPatches(path, coords, patch_px),
        batch_size=256 if on_gpu else 32,
        num_workers=workers,
        pin_memory=on_gpu,
    )
    found = []
    for images in loader:
        with torch.autocast(device, torch.float16, enabled=on_gpu):
            features = network(images.to(device, non_blocking=True))  # (B, D)
        found.append(features.float().cpu().numpy().astype(np.float16))
    return np.concatenate(found)


if __name__ == "__main__":
    run("peers", measure, {"slides": 1, "patches": 9, "patch_px": 64, "rounds": 2})
