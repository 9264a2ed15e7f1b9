"""Memory of extracting a huge slide: `python -m benchmarks.huge_slide`."""

import multiprocessing
import resource
import struct
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import imagecodecs
import numpy as np

from benchmarks.extraction import Extraction
from benchmarks.material import painted
from benchmarks.program import run
from benchmarks.result import Result
from histotransfer_pl.slides.synthetic import SYNTHETIC_MPP

_TILE = 256
_DOWNSAMPLES = (1, 4, 16, 64)
_LONG, _SHORT, _RATIONAL = 4, 3, 5


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
            # A process of its own: the peak of a process never falls.
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


def peak_of_extraction(folder: Path, mpp: float) -> tuple[float, float, int]:
    """Peak memory in MB before and after an extraction with a tiny network, and its patches."""
    import torch

    torch.set_num_threads(1)
    before = _peak()
    with redirect_stdout(sys.stderr):  # the parent's may be a table in JSON
        work = Extraction(
            folder, folder / "slides", 224, 32, "cpu", "timm:test_resnet", patch_mpp=mpp
        )
        work.prepare(["layer1"])()
    return before, _peak(), work.patches


def _peak() -> float:
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # getrusage would count the parent's memory too, which lives on until a spawned child's exec.
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def write_sparse(path: Path, width: int, height: int) -> None:
    """A pyramid all of whose tiles are the same few bytes of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = painted()
    corners = [(512 + 256 * i, 512 + 256 * j) for i in range(4) for j in range(4)]
    tiles = [
        bytes(
            imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels[y : y + _TILE, x : x + _TILE]), 85)
        )
        for x, y in corners
    ]
    offsets, place = [], 8
    for tile in tiles:
        offsets.append(place)
        place += len(tile)
    with path.open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, place + place % 2))
        file.write(b"".join(tiles) + b"\0" * (place % 2))
        for number, downsample in enumerate(_DOWNSAMPLES):
            size = (width // downsample, height // downsample)
            last = number == len(_DOWNSAMPLES) - 1
            file.write(_directory(file.tell(), size, downsample, offsets, tiles, last=last))


def _directory(
    start: int,
    size: tuple[int, int],
    downsample: int,
    offsets: list[int],
    tiles: list[bytes],
    *,
    last: bool,
) -> bytes:
    """An image file directory with its arrays behind it."""
    count = -(-size[0] // _TILE) * -(-size[1] // _TILE)
    chosen = np.random.default_rng(0).integers(0, len(tiles), count)
    where = np.asarray(offsets, "<u4")[chosen].tobytes()
    lengths = np.asarray([len(tile) for tile in tiles], "<u4")[chosen].tobytes()
    resolution = struct.pack("<II", round(10_000 / (SYNTHETIC_MPP * downsample)), 1)
    arrays = {258: struct.pack("<HHH", 8, 8, 8), 282: resolution, 283: resolution}
    arrays |= {324: where, 325: lengths}
    # tag, type, number of values, value
    entries = [
        (254, _LONG, 1, int(downsample > 1)),
        (256, _LONG, 1, size[0]),
        (257, _LONG, 1, size[1]),
        (258, _SHORT, 3, None),
        (259, _SHORT, 1, 7),
        (262, _SHORT, 1, 6),
        (277, _SHORT, 1, 3),
        (282, _RATIONAL, 1, None),
        (283, _RATIONAL, 1, None),
        (284, _SHORT, 1, 1),
        (296, _SHORT, 1, 3),
        (322, _LONG, 1, _TILE),
        (323, _LONG, 1, _TILE),
        (324, _LONG, count, None),
        (325, _LONG, count, None),
        (530, _SHORT, 2, 2 | 2 << 16),
    ]
    table = b""
    place = start + 2 + 12 * len(entries) + 4
    behind = b""
    for tag, kind, number, value in entries:
        content = value
        if content is None and len(arrays[tag]) == 4:
            content = struct.unpack("<I", arrays[tag])[0]
        elif content is None:
            content = place + len(behind)
            behind += arrays[tag] + b"\0" * (len(arrays[tag]) % 2)
        table += struct.pack("<HHII", tag, kind, number, content)
    following = 0 if last else place + len(behind)
    return struct.pack("<H", len(entries)) + table + struct.pack("<I", following) + behind


if __name__ == "__main__":
    run("huge_slide", measure, {"width": 24_000, "height": 16_000, "smaller": 2})
