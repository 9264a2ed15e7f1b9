"""Against other tools for the same work: `python -m benchmarks.other_tools`.

A tool that is not installed is named in place of its row.
"""

import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from benchmarks.extraction import Extraction
from benchmarks.material import ragged_lengths, write_slides
from benchmarks.mil_epoch import TimedTraining
from benchmarks.peers import TO_TENSOR
from benchmarks.program import run
from benchmarks.result import Result, compare, from_times, left_out, rounds_in_time, seconds
from benchmarks.store_read import FEATURES, make_bags
from histotransfer_pl.tasks.heap import keep_freed_memory

_BATCHES = {1: 0.87, 8: 1.0}
"""Bags of a step, and the goal: a bare loop is the reference, of which 1 / 1.15 is the goal."""


def measure(
    rows: tuple[int, ...] = (200, 2_000, 20_000),
    width: int = 1024,
    bags: int = 60,
    largest: int = 4_000,
    epochs: int = 5,
    patches: int = 144,
    rounds: int = 3,
) -> list[Result]:
    """Bag reads against h5py, training against torchmil, extraction against LazySlide.

    Args:
        rows: Rows of the bags that are read.
        width: Features of their rows.
        bags: Slides of the training cohort, of which three fifths train.
        largest: Patches of its largest bag.
        epochs: Epochs that count.
        patches: Patches of the slide that is extracted, about.
        rounds: Rounds of the extraction.
    """
    keep_freed_memory()  # for both ways, as the command line does
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            *(_h5py(folder, count, width) for count in rows),
            *_torchmil(folder / "mil", ragged_lengths(bags, 500, largest), epochs),
            _lazyslide(folder / "extraction", patches, rounds),
        ]


def _h5py(folder: Path, rows: int, width: int) -> Result:
    """A bag out of the store against the same numbers out of a contiguous data set."""
    name = f"bag read, {rows} rows, vs h5py"
    if not find_spec("h5py"):
        return left_out(name, 1.0, "install h5py", at_least=True)
    store = make_bags(folder / "bags.zarr", rows, width, 1)
    path = folder / f"{rows}.h5"
    h5py = import_module("h5py")
    with h5py.File(path, "w") as file:
        file["features"] = store.slide(f"{rows}/0").read(FEATURES)

    def theirs(_: int) -> object:
        with h5py.File(path) as file:
            return file["features"][:]

    return compare(
        *(name, 1.0, lambda _: store.slide(f"{rows}/0").read(FEATURES), theirs),
        max(10, 60_000 // rows),
        speedup=True,
        notes="the file is opened anew for each bag, as bags lie in a file each",
        amount=rows * width * 2 / 1e6,
        unit="MB",
    )


def _torchmil(folder: Path, lengths: list[int], epochs: int) -> list[Result]:
    names = {size: f"AttentionMIL epoch, batch {size}, vs torchmil's ABMIL" for size in _BATCHES}
    if not find_spec("torchmil"):
        return [
            left_out(name, _BATCHES[size], "install torchmil", at_least=True)
            for size, name in names.items()
        ]
    folder.mkdir()
    training = TimedTraining(folder, lengths, 512)
    results = []
    for size, name in names.items():
        loop = _TorchmilLoop(training.bags, training.labels, size)
        ours, theirs = training.times(loop.epoch, epochs, "cpu", size)
        notes = f"{len(training.bags)} bags of {min(lengths)} to {max(lengths)} patches x 512"
        results.append(
            from_times(
                *(name, _BATCHES[size], ours, theirs),
                speedup=True,
                notes=f"{notes}; its network, padding and loss in a bare loop, bags in memory",
                amount=len(training.bags),
                unit="bags",
            )
        )
    return results


class _Items(Dataset[dict[str, Tensor]]):
    """Bags of torchmil, in memory."""

    def __init__(self, items: list[dict[str, Tensor]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    @override
    def __getitem__(self, place: int) -> dict[str, Tensor]:
        return self.items[place]


class _TorchmilLoop:
    """torchmil's attention network with our trunk, its padding and its loss."""

    def __init__(self, bags: list[Tensor], labels: list[int], batch_size: int) -> None:
        width = bags[0].shape[1]
        trunk = nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU())
        self.model = import_module("torchmil.models").ABMIL((width,), att_dim=32, feat_ext=trunk)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        pairs = zip(bags, labels, strict=True)
        items = [{"X": bag, "Y": torch.tensor(label)} for bag, label in pairs]
        padded = import_module("torchmil.data").collate_fn
        self.loader = DataLoader(_Items(items), batch_size, shuffle=True, collate_fn=padded)

    def epoch(self) -> None:
        """One pass over all bags, in random order."""
        for batch in self.loader:
            self.optimizer.zero_grad()
            _, losses = self.model.compute_loss(batch["Y"], batch["X"], batch["mask"])
            sum(losses.values()).backward()
            self.optimizer.step()


def _lazyslide(folder: Path, patches: int, rounds: int) -> Result:
    """A painted slide through ResNet18 into a store, by patches per second of each."""
    name = "extraction of one slide vs LazySlide"
    if not find_spec("lazyslide"):
        return left_out(name, 1.0, "install lazyslide", at_least=True)
    side = max(1, round(patches**0.5)) * 224
    (path,) = write_slides(folder / "slides", 1, side)
    work = Extraction(folder, folder / "slides", 224, None, "cpu", "resnet18")
    ours, theirs, count = [], [], 0
    for _ in rounds_in_time(rounds + 1, least=3):  # the first one warms up
        ours.append(seconds(work.prepare(["layer4"])) / work.patches)
        took, count = _lazyslide_extraction(path)
        theirs.append(took / count)
    return from_times(
        *(name, 1.0, ours[1:], theirs[1:]),
        speedup=True,
        notes=f"per patch; {work.patches} patches against {count} of theirs, tiling left out",
        amount=1,
        unit="patches",
    )


def _lazyslide_extraction(path: Path) -> tuple[float, int]:
    """Seconds of its extraction, and its tiles."""
    lazyslide = import_module("lazyslide")
    slide = import_module("wsidata").open_wsi(str(path))
    lazyslide.pp.find_tissues(slide)
    lazyslide.pp.tile_tissues(slide, 224, mpp=0.5)
    network = timm.create_model("resnet18", num_classes=0).eval()
    return seconds(
        lambda: lazyslide.tl.feature_extraction(
            slide, model=network, transform=TO_TENSOR, device="cpu", pbar=False
        )
    ), len(slide["tiles"])


QUICK = {"rows": [200], "width": 64, "bags": 10, "largest": 600, "epochs": 2, "patches": 4}

if __name__ == "__main__":
    run("other_tools", measure, QUICK)
