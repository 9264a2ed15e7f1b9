"""Reading patches against OpenSlide: `python -m benchmarks.patch_reading`."""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from openslide import OpenSlide

from benchmarks.material import painted, write_slides
from benchmarks.program import run
from benchmarks.result import Result, compare, left_out
from histotransfer_pl.slides.reader import open_slide

Corners = list[tuple[int, int]]
PIECE = 16
"""Neighbouring patches that one thread reads, as in extraction, whose threads read batches."""
MPP = 0.5
JPEG_GOAL = 3.0
OTHER_GOAL = 0.95
_NO_DATA = "needs real slides: set HISTOTRANSFER_DATA"
"""Never slower, within what two runs of the same code differ by."""


def measure(
    patch_px: int = 224, rounds: int = 15, patches: int = 144, threads: tuple[int, ...] = (1, 2)
) -> list[Result]:
    """Patches of a grid, a fresh handle in each round; speeds by `OpenSlide.read_region`.

    Args:
        patch_px: Side of the patches.
        rounds: Rounds.
        patches: Patches of a slide at most.
        threads: Threads that read, of both ways.
    """
    with tempfile.TemporaryDirectory() as name:
        return [
            compare_file(path, kind, goal, patch_px, rounds, patches, number)
            if path.is_file()
            else left_out(_row(kind, patch_px, number), goal, _NO_DATA, at_least=True)
            for path, kind, goal in slides(Path(name))
            for number in threads
        ]


def _row(kind: str, patch_px: int, threads: int) -> str:
    return f"patches/s of {kind}, {patch_px} px, {threads} threads, vs OpenSlide.read_region"


def slides(folder: Path) -> list[tuple[Path, str, float]]:
    """Files, what they are, and the goal for them; the real ones may be missing."""
    real = Path(os.environ.get("HISTOTRANSFER_DATA", "../shared/data")) / "wsi_real"
    plain = folder / "deflate.tiff"
    with tifffile.TiffWriter(plain) as tiff:
        tiff.write(painted(), tile=(256, 256), photometric="rgb", compression="deflate")
    return [
        (write_slides(folder, 1, 2688)[0], "painted JPEG TIFF", JPEG_GOAL),
        (real / "CMU-1-Small-Region.svs", "Aperio JPEG", JPEG_GOAL),
        (real / "tcga-cr-7395-01a-01-ts1.svs", "Aperio JPEG 2000", OTHER_GOAL),
        (plain, "deflate TIFF, read by OpenSlide", OTHER_GOAL),
    ]


def compare_file(
    path: Path, kind: str, goal: float, patch_px: int, rounds: int, patches: int, threads: int
) -> Result:
    with OpenSlide(path) as slide:
        width, height = slide.dimensions
    columns = range(0, width - patch_px + 1, patch_px)
    places = [(x, y) for y in range(0, height - patch_px + 1, patch_px) for x in columns]
    places = places[:patches]

    # A handle for each round and one to warm up: each keeps tiles that it has decoded.
    readers = [open_slide(path, MPP) for _ in range(rounds + 1)]
    handles = [OpenSlide(path) for _ in range(rounds + 1)]
    size = (patch_px, patch_px)

    def direct(_: int) -> None:
        with readers.pop() as reader:
            _read(places, threads, lambda place: reader.read_patch(*place, patch_px, MPP))

    def plain(_: int) -> None:
        with handles.pop() as slide:
            _read(
                places,
                threads,
                lambda place: np.asarray(slide.read_region(place, 0, size).convert("RGB")),
            )

    name = _row(kind, patch_px, threads)
    notes = f"{len(places)} patches in pieces of {PIECE}"
    return compare(
        *(name, goal, direct, plain, rounds),
        speedup=True,
        notes=notes,
        amount=len(places),
        unit="patches",
    )


def _read(
    places: Corners, threads: int, read: Callable[[tuple[int, int]], NDArray[np.uint8]]
) -> None:
    def read_piece(start: int) -> None:
        for place in places[start : start + PIECE]:
            read(place)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(read_piece, range(0, len(places), PIECE)):
            pass


if __name__ == "__main__":
    run("patch_reading", measure, {"rounds": 2, "patches": 16})
