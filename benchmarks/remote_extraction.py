"""Extraction to a local S3 server against a folder: `python -m benchmarks.remote_extraction`."""

import tempfile
import time
from pathlib import Path

from benchmarks.extraction import Extraction
from benchmarks.material import write_slides
from benchmarks.program import run
from benchmarks.result import Result, from_times, rounds_in_time, seconds
from benchmarks.store_objects import BUCKET, local_s3
from histotransfer_pl.tasks.heap import keep_freed_memory

_OWN = "of the process that extracts, without the server"
_ALL = "the server, written in Python, runs on the same cores"


def measure(
    slides: int = 2, patches: int = 64, patch_px: int = 224, rounds: int = 4
) -> list[Result]:
    """Extraction with an encoder, of slides that are tiled already, into a bucket and a folder.

    Args:
        slides: Slides.
        patches: Patches of each, about.
        patch_px: Side of a patch.
        rounds: Rounds at most, after one that warms up.
    """
    keep_freed_memory()
    side = max(1, round(patches**0.5)) * patch_px
    with tempfile.TemporaryDirectory() as name, local_s3():
        folder = Path(name)
        write_slides(folder / "slides", slides, side)
        ways = [
            Extraction(folder, folder / "slides", patch_px, 32, "cpu", "resnet18", store=store)
            for store in (f"s3://{BUCKET}/extracted.zarr", None)
        ]
        remote, local = ways
        wall: dict[Extraction, list[float]] = {remote: [], local: []}
        spent: dict[Extraction, list[float]] = {remote: [], local: []}
        for number in rounds_in_time(rounds + 1):
            for way in ways if number % 2 else ways[::-1]:
                work = way.prepare(["layer4"])
                start = time.process_time()
                took = seconds(work)
                if number:  # the first round warms up
                    wall[way].append(took)
                    spent[way].append(time.process_time() - start)
        row = f"extraction of {slides} slides, {remote.patches} patches, to S3 vs to a folder"
        notes = "resnet18, random weights; "
        return [
            from_times(f"{row}, CPU", 1.1, spent[remote], spent[local], notes=notes + _OWN),
            from_times(row, 1.1, wall[remote], wall[local], notes=notes + _ALL),
        ]


if __name__ == "__main__":
    run("remote_extraction", measure, {"slides": 1, "patches": 4, "rounds": 2})
