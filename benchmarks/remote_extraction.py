"""Extraction to a local S3 server against a folder: `python -m benchmarks.remote_extraction`."""

import tempfile
from pathlib import Path

from benchmarks.extraction import Extraction
from benchmarks.material import write_slides
from benchmarks.program import run
from benchmarks.result import Result, compare
from benchmarks.store_objects import BUCKET, local_s3
from histotransfer_pl.tasks.heap import keep_freed_memory


def measure(
    slides: int = 2, patches: int = 144, patch_px: int = 224, rounds: int = 4
) -> list[Result]:
    """Extraction with an encoder, of slides that are tiled already, into a bucket and a folder.

    Args:
        slides: Slides.
        patches: Patches of each, about.
        patch_px: Side of a patch.
        rounds: Rounds.
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
        return [
            compare(
                f"extraction of {slides} slides, {remote.patches} patches, to S3 vs to a folder",
                1.1,
                lambda _: remote.prepare(["layer4"])(),
                lambda _: local.prepare(["layer4"])(),
                rounds,
                notes="resnet18, random weights; the server runs on the same cores",
            )
        ]


if __name__ == "__main__":
    run("remote_extraction", measure, {"slides": 1, "patches": 4, "rounds": 2})
