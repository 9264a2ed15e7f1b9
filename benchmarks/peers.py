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
from benchmarks.result import Result, from_times, seconds
from histotransfer_pl.callbacks.summary import describe_bottleneck
from histotransfer_pl.data.cores import available_cores
from histotransfer_pl.tasks.heap import keep_freed_memory


class PlainPatches(Dataset[Tensor]):
    """Patches of one slide."""

    def __init__(self, path: Path, coords: NDArray[np.int32], patch_px: int) -> None:
        self.path, self.coords, self.patch_px = path, coords, patch_px
        self.slide: Any = None
        self.transform = Compose(
            [ToTensor(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
        )

    def __len__(self) -> int:
        return len(self.coords)

    @override
    def __getitem__(self, row: int) -> Tensor:
        self.slide = self.slide or OpenSlide(self.path)
        x, y = self.coords[row].tolist()
        image = self.slide.read_region((x, y), 0, (self.patch_px, self.patch_px)).convert("RGB")
        pixels: Tensor = self.transform(image)  # (3, P, P)
        return pixels


def measure(
    slides: int = 2,
    patches: int = 144,
    patch_px: int = 224,
    encoder: str = "resnet18",
    rounds: int = 4,
    device: str = "cpu",
) -> list[Result]:
    """Patches per second into the store by those of the peers' way, default settings.

    Args:
        slides: Slides.
        patches: Patches of a slide, about.
        patch_px: Side of a patch.
        encoder: Name of the network in timm and in the catalogue; its weights are random.
        rounds: Rounds.
        device: cpu or cuda.
    """
    keep_freed_memory()
    network = timm.create_model(encoder, num_classes=0).eval().to(device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        side = max(1, round(patches**0.5)) * patch_px
        paths = write_slides(folder / "slides", slides, side, source_px=side)
        work = Extraction(folder, folder / "slides", patch_px, None, device, encoder)
        stored = work.prepared_data().store
        coords = [stored.slide(path.stem).coords() for path in paths]
        workers = available_cores()
        ours, theirs = [], []
        for _ in range(rounds + 1):  # the first one warms up
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
            *(2.0 if device == "cuda" else 1.0, ours[1:], theirs[1:]),
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
