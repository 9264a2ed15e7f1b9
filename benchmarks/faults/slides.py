"""Slides damaged by seed, each read as `tile` and `extract` read it.

A damaged slide must end as one SlideError, or give the pixels that OpenSlide gives. It may end
neither the process nor another slide, nor take its time or memory: the reading runs in processes of
their own, whose death names the slide.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.faults.slide_mutations import mutate, paint_slides, write
from benchmarks.faults.tally import Tally
from histotransfer_pl.errors import SlideError
from histotransfer_pl.records.grid import GridSettings, TissueSettings
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.slides.tiling import tile_slide

GRID = GridSettings(64, 0.7, overlap_px=10, min_tissue=0.0, tissue=TissueSettings(mpp=4.0))
"""Patches that lie across tiles and are resampled; a thumbnail from the coarser level."""

MEMORY_GIB = 0.25
"""What a slide may take here; its pixels are half a megabyte."""

GROWTH_GIB = 1.0
"""Growth of the reading process from which a slide counts as a bomb."""

CASES, BATCH, SLIDE_SECONDS = 480, 60, 10.0
WAIT_SECONDS = 600.0
"""A process that waits is given up; one that computes is ended by its CPU seconds, whatever else
the machine does."""


def campaign(seed: int, cases: int) -> Tally:
    """Damage so many slides and read them.

    Args:
        seed: What is damaged, and how.
        cases: Slides.
    """
    rng = np.random.default_rng(seed)
    sounds = paint_slides()
    counts = {"survived": 0, "lost": 0, "unexplained": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for first in range(0, cases, BATCH):
            done: dict[str, str] = {}
            for number in range(first, min(first + BATCH, cases)):
                sound = sounds[int(rng.integers(len(sounds)))]
                what, data = mutate(sound, rng)
                done[write(folder, number, sound, data).name] = what
            for slide, (state, reason) in _read_apart(folder, sorted(done)).items():
                counts[state] += 1
                if state != "survived":
                    print(f"{state}: seed {seed}, slide {slide} ({done[slide]}): {reason}")
                (folder / slide).unlink()
    return Tally("slides", sum(counts.values()), **counts)


def _read_apart(folder: Path, names: list[str]) -> dict[str, tuple[str, str]]:
    """State and reason of every slide, read by processes of which a slide may kill one."""
    results: dict[str, tuple[str, str]] = {}
    while left := [name for name in names if name not in results]:
        command = [sys.executable, "-m", "benchmarks.faults.slides", "--read", str(folder), *left]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            try:
                output, _ = process.communicate(timeout=WAIT_SECONDS)
                end = f"the process ended with {process.returncode}"
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                end = "no answer"
        for line in output.splitlines():
            name, state, reason = line.split("\t", 2)
            results[name] = (state, reason)
        lost = [name for name in left if name not in results]
        if lost:  # the first of them ended or held up the process, the others were not read
            results[lost[0]] = ("unexplained", end)
    return results


def read(path: Path) -> tuple[str, str]:
    """Tile a slide, and read its patches by both readers."""
    start, before = time.process_time(), _peak_gib()  # of a busy machine the clock says nothing
    try:
        problem = _compare(path)
        state = "lost" if problem else "survived"
    except SlideError as error:
        # An error that only wraps what nobody foresaw is one line, but no memory may be asked for.
        bomb = isinstance(error.__cause__, MemoryError)
        state, problem = "unexplained" if bomb else "survived", str(error)
    except Exception as error:  # noqa: BLE001 - this is what is counted
        state, problem = "unexplained", repr(error)
    if (growth := _peak_gib() - before) > GROWTH_GIB:
        return "unexplained", f"took {growth:.1f} GiB: {problem}"
    if (span := time.process_time() - start) > SLIDE_SECONDS:
        return "unexplained", f"took {span:.0f} s of CPU: {problem}"
    return state, problem


def _compare(path: Path) -> str:
    """What differs between the readers; empty if nothing does."""
    with closing(open_slide(path, 0.5, memory_gib=MEMORY_GIB)) as reader:
        tiled = tile_slide(reader, GRID)
        patches = [_patch(reader, x, y) for x, y in tiled.coords.tolist()]
    with closing(open_slide(path, 0.5, "openslide", MEMORY_GIB)) as plain:
        for (x, y), patch in zip(tiled.coords.tolist(), patches, strict=True):
            other = _patch(plain, x, y)
            if patch is None or other is None:
                if patch is not other:
                    return f"the direct reader {'lost' if patch is None else 'made up'} {x}, {y}"
            elif not np.array_equal(patch, other):
                return f"other pixels at {x}, {y}"
    return ""


def _patch(reader: object, x: int, y: int) -> np.ndarray | None:
    try:
        patch: np.ndarray = reader.read_patch(x, y, GRID.patch_px, GRID.mpp)  # type: ignore[attr-defined]
    except SlideError:
        return None
    return patch


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _read_all(folder: Path, names: list[str]) -> None:
    limit = int((MEMORY_GIB + GROWTH_GIB + 4) * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    busy = int(30 + SLIDE_SECONDS * len(names) / 10)
    resource.setrlimit(resource.RLIMIT_CPU, (busy, busy))
    for name in names:
        state, reason = read(folder / name)
        print(name, state, " ".join(reason.split()), sep="\t", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--read", nargs="+", metavar="FOLDER SLIDE", help="for its own processes")
    options = parser.parse_args()
    if options.read:
        _read_all(Path(options.read[0]), options.read[1:])
        os._exit(0)  # what damaged files left in libraries is not asked to end well
    print(campaign(options.seed, options.cases))


if __name__ == "__main__":
    main()
