"""How cost grows with work: `python -m benchmarks.scaling --plot FOLDER`."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.extraction import Extraction, encode
from benchmarks.material import FEATURES, write_slides
from benchmarks.program import run
from benchmarks.result import Result, seconds
from benchmarks.store_scale import make_many_slides, write_cohort
from histotransfer_pl.data.join import join_cohort
from histotransfer_pl.encoders.catalogue import find_entry
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.cost import count_costs
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.models.heads import AttentionHead
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.tasks.heap import keep_freed_memory

Prepare = Callable[[], Callable[[], object]]
"""Gives work that only has to run: what it needs is made outside of the time."""

Curve = tuple[str, list[float], list[float]]
GOAL = 1.1
"""Exponent of cost by work: 1 is linear, 2 would be quadratic."""


def measure(
    patches: tuple[int, ...] = (9, 36, 144),
    slides: tuple[int, ...] = (200, 800, 3_200),
    bags: tuple[int, ...] = (1_000, 4_000, 16_000),
    rounds: int = 3,
    plot: str | None = None,
) -> list[Result]:
    """Exponents of time against patches, slides, depth (by its arithmetic) and bag size.

    Args:
        patches: Patches of an extraction, squares of whole numbers.
        slides: Slides of a store that is opened and joined with its cohort.
        bags: Patches of the bag of a training step.
        rounds: Each point is the median of so many.
        plot: Folder for scaling.svg and scaling.png.
    """
    keep_freed_memory()
    curves = [
        _curve("extraction, patches", patches, _extraction, rounds),
        _curve("open and join, slides", slides, _join, rounds),
        _depths(rounds),
        _curve("training step, patches of the bag", bags, _step, rounds),
    ]
    if plot is not None:
        draw(curves, Path(plot))
    return [_result(curve) for curve in curves]


def _curve(
    name: str, sizes: Sequence[int], make: Callable[[int, Path], Prepare], rounds: int
) -> Curve:
    times = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            times.append(_median(make(size, Path(folder)), rounds))
    return name, [float(size) for size in sizes], times


def _median(prepare: Prepare, rounds: int) -> float:
    prepare()()
    return float(np.median([seconds(prepare()) for _ in range(rounds)]))


def _extraction(patches: int, folder: Path) -> Prepare:
    side = round(patches**0.5) * 224
    write_slides(folder / "slides", 1, side)
    work = Extraction(folder, folder / "slides", 224, 32, "cpu", "resnet18")
    return lambda: work.prepare(["layer1"])


def _join(slides: int, folder: Path) -> Prepare:
    root, table = folder / "s.zarr", folder / "cohort.csv"
    make_many_slides(root, slides)
    write_cohort(root, table)

    def join() -> object:
        return join_cohort(table, FeatureStore.open(root), [FEATURES], "label", strict=True)

    return lambda: join


def _step(patches: int, _folder: Path) -> Prepare:
    head = AttentionHead(512, 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    bag, lengths, label = torch.randn(patches, 512), torch.tensor([patches]), torch.tensor([1])

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(head(bag, lengths).logits, label).backward()
        optimizer.step()

    return lambda: step


def _depths(rounds: int) -> Curve:
    """Time of each depth of ResNet18 against its multiplications."""
    work, times = [], []
    batch = torch.randint(0, 256, (8, 224, 224, 3), dtype=torch.uint8)
    for cost in count_costs(find_entry("resnet18")):
        network = build_encoder(EncoderConfig("resnet18", "random", depths=[cost.depth]))
        work.append(float(cost.macs))
        times.append(_median(partial(partial, encode, network, [batch], "cpu"), rounds))
    return "encoder, multiplications to the depth", work, times


def exponent(curve: Curve) -> float:
    """The slope of log time against log work; the smallest work weighs least."""
    _, work, times = curve
    return float(np.polyfit(np.log(work), np.log(times), 1, w=np.sqrt(times))[0])


def _result(curve: Curve) -> Result:
    name, work, times = curve
    points = ", ".join(f"{w:.3g}: {t * 1e3:.3g} ms" for w, t in zip(work, times, strict=True))
    return Result(f"exponent of {name}", exponent(curve), GOAL, "exponent", notes=points)


def draw(curves: Sequence[Curve], folder: Path) -> None:
    """All curves, with a line of slope 1 through the last point of each."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(9, 7), layout="constrained")
    for axes, curve in zip(figure.subplots(2, 2).flat, curves, strict=True):
        name, work, times = curve
        axes.loglog(work, times, "o-", label=f"exponent {exponent(curve):.2f}")
        axes.loglog(work, [times[-1] * w / work[-1] for w in work], ":", label="linear")
        axes.set(xlabel=name.rpartition(", ")[2], ylabel="seconds", title=name)
        axes.legend()
        for axis in (axes.xaxis, axes.yaxis):  # labels between the powers of ten would overlap
            axis.set_minor_formatter(NullFormatter())
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("svg", "png"):
        figure.savefig(folder / f"scaling.{suffix}")


if __name__ == "__main__":
    run("scaling", measure, {"patches": [1, 4], "slides": [20, 80], "bags": [100, 400]})
