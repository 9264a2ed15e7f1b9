"""Depths stored in one pass, and a cut encoder: `python -m benchmarks.depths_extraction`."""

import tempfile
from pathlib import Path

from benchmarks.extraction import Extraction
from benchmarks.material import write_slides
from benchmarks.program import run
from benchmarks.result import Result, from_times, rounds_in_time, seconds
from histotransfer_pl.tasks.heap import keep_freed_memory

DEPTHS = ["layer1", "layer2", "layer3", "layer4"]


def measure(patches: int = 64, patch_px: int = 224, rounds: int = 3) -> list[Result]:
    """Extraction of ResNet18 into the store: all depths at once, one by one, and cut.

    Args:
        patches: Patches of the slide, about.
        patch_px: Side of a patch.
        rounds: Rounds.
    """
    keep_freed_memory()
    times: dict[str, list[float]] = {name: [] for name in ("all", *DEPTHS)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        side = max(1, round(patches**0.5)) * patch_px
        write_slides(folder / "slides", 1, side)
        work = Extraction(folder, folder / "slides", patch_px, 32, "cpu", "resnet18")
        work.prepare(DEPTHS)()
        for _ in rounds_in_time(rounds):
            times["all"].append(seconds(work.prepare(DEPTHS)))
            for depth in DEPTHS:
                times[depth].append(seconds(work.prepare([depth])))
    separate = [sum(parts) for parts in zip(*(times[depth] for depth in DEPTHS), strict=True)]
    rows = [
        ("four depths stored in one pass vs four passes", 0.45, times["all"], separate),
        ("four depths stored in one pass vs the deepest", 1.05, times["all"], times["layer4"]),
        ("extraction cut at layer2 vs full depth", 0.75, times["layer2"], times["layer4"]),
    ]
    notes = f"{work.patches} patches"
    return [from_times(*row, notes=notes, amount=work.patches, unit="patches") for row in rows]


if __name__ == "__main__":
    run("depths_extraction", measure, {"patches": 4, "patch_px": 64, "rounds": 2})
