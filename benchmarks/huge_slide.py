"""Memory of extracting a huge slide: `python -m benchmarks.huge_slide`."""

import multiprocessing
import tempfile
from pathlib import Path

from benchmarks.peak_memory import peak_of_extraction
from benchmarks.program import run
from benchmarks.result import Result
from benchmarks.sparse_slide import write_sparse


def measure(
    width: int = 100_000,
    height: int = 80_000,
    smaller: int = 3,
    patch_mpp: float = 6.0,
    repeats: int = 2,
) -> list[Result]:
    """Peak memory of extracting a huge slide, by that of a slide of a fraction of its sides.

    Args:
        width: Width of the huge slide in level-0 pixels.
        height: Its height.
        smaller: How many times shorter the sides of the other slide are.
        patch_mpp: Resolution of the patches, a twelfth of the slide's by default.
        repeats: Processes for each slide, of whose peaks the least counts: how many batches are
            in memory at a time is up to the threads.
    """
    peaks, patches, before = [], [], 0.0
    for factor in (smaller, 1):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_sparse(folder / "slides" / "huge.tiff", width // factor, height // factor)
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                runs = [pool.apply(peak_of_extraction, (folder, patch_mpp)) for _ in range(repeats)]
        before, peak, count = min(runs, key=lambda run: run[1])
        peaks.append(peak)
        patches.append(count)
    notes = (
        f"{peaks[1]:.0f} MB for {patches[1]:,} patches, {peaks[0]:.0f} MB for {patches[0]:,}; "
        f"{before:.0f} MB of it are the libraries; the least of {repeats} runs"
    )
    size = f"{width:,} x {height:,} px"
    name = f"peak memory, slide of {size} vs one of 1/{smaller} of its sides"
    return [Result(name, peaks[1] / peaks[0], 1.1, "bytes / bytes", notes=notes)]


if __name__ == "__main__":
    run("huge_slide", measure, {"width": 24_000, "height": 16_000, "smaller": 2})
