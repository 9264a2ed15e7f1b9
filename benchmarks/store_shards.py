"""Many writers on one store: `python -m benchmarks.store_shards`."""

import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.program import run
from benchmarks.result import Result, left_out, rounds_in_time
from benchmarks.shard_writer import FEATURES, values_of
from histotransfer_pl.store.feature_store import FeatureStore


def measure(
    slides: int = 1000,
    shards: int = 32,
    patches: int = 200,
    kills: int = 5,
    rounds: int = 3,
    few: int = 1000,
) -> list[Result]:
    """Shards at once against one process, with and without kills.

    Args:
        slides: Tiny slides that many shards write.
        shards: Processes at once.
        patches: Patches of a slide, of 512 numbers each.
        kills: How often four shards are written with every one killed once, at most.
        rounds: How often four shards are written, at most.
        few: Slides that four shards write; of 200 the starts, which are subtracted, are most.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        found = [
            *_cpu(root, 4, few, patches, rounds, {"in turn": _run_in_turn, "at once": _run}),
            survive_kills(root, kills, 40, patches),
        ]
        name = f"slides lost or doubled by {shards} shards at once, {slides} slides"
        if not list(rounds_in_time(1, least=0)):
            return [*found, left_out(name, 0.0, "the time that was given is over")]
        (many,) = _cpu(root, shards, slides, patches, 1, {"at once": _run})  # checks the store
        notes = f"CPU {many.ratio:.2f} times that of one process: {many.notes}"
        return [*found, Result(name, 0.0, 0.0, unit="slides", notes=notes)]


def _name(count: int, way: str, slides: int, patches: int) -> str:
    return f"{count} shards {way}, {slides} slides of {patches} patches, vs one process"


def _start(root: Path, *numbers: int) -> "subprocess.Popen[bytes]":
    """A process that writes its shard: number, shards, slides, patches."""
    arguments = map(str, (root, *numbers))
    return subprocess.Popen([sys.executable, "-m", "benchmarks.shard_writer", *arguments])


def _cpu_of(work: Callable[[], None]) -> float:
    """CPU seconds of the processes that a call starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _run(root: Path, count: int, slides: int, patches: int) -> None:
    """All shards at once."""
    _end([_start(root, n, count, slides, patches) for n in range(count)])


def _run_in_turn(root: Path, count: int, slides: int, patches: int) -> None:
    """All shards, one after the other."""
    for number in range(count):
        _end([_start(root, number, count, slides, patches)])


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError("a shard failed")


def _check(root: Path, slides: int, patches: int) -> None:
    """Nothing lost, nothing doubled, every value right."""
    store = FeatureStore.open(root)
    if store.verify() or store.slide_ids() != sorted(f"slide {n}" for n in range(slides)):
        raise RuntimeError(f"{root} is not whole")
    for name in store.slide_ids():
        if not np.array_equal(store.slide(name).read(FEATURES), values_of(name, patches)):
            raise RuntimeError(f"{name} has other values")
    if (root / ".partial").exists():
        raise RuntimeError("something was left over")


def _cpu(
    root: Path,
    count: int,
    slides: int,
    patches: int,
    rounds: int,
    ways: Mapping[str, Callable[[Path, int, int, int], None]],
) -> list[Result]:
    """CPU time of shards in turn and at once: processes that share cores and caches cost more."""
    spent: dict[str, list[float]] = {way: [] for way in ("start", "one", *ways)}
    for number in rounds_in_time(rounds, least=1):
        place = root / f"start{count}-{number}.zarr"
        spent["start"].append(_cpu_of(partial(_run, place, 1, 0, patches)))
        for way, work in {"one": _run, **ways}.items():
            place = root / f"{way}{count}-{number}.zarr"
            parts = 1 if way == "one" else count
            spent[way].append(_cpu_of(partial(work, place, parts, slides, patches)))
            _check(place, slides, patches)
            shutil.rmtree(place)
    start, one = (statistics.median(spent[way]) for way in ("start", "one"))
    results = []
    for way in ways:
        ratios = [
            (many - count * start) / (single - start)
            for many, single in zip(spent[way], spent["one"], strict=True)
        ]
        notes = (
            f"{statistics.median(spent[way]):.1f} against {one:.1f} CPU-s, of which each process "
            f"spends {start:.2f} on its start; values and verify equal"
        )
        name = _name(count, way, slides, patches)
        results.append(
            Result(
                name, statistics.median(ratios), 1.05, "CPU / CPU, without start",
                min(ratios), max(ratios), notes=notes,
            )
        )  # fmt: skip
    return results


def _wait_for(root: Path, slides: int, processes: "list[subprocess.Popen[bytes]]") -> None:
    """Until so many slides are written or all processes have ended, however fast they are."""
    while sum(1 for _ in root.glob("slide*")) < slides and None in [p.poll() for p in processes]:
        time.sleep(0.001)


def survive_kills(root: Path, times: int, slides: int, patches: int) -> Result:
    """Four shards, every one killed once and started again.

    Raises:
        RuntimeError: A slide was lost, doubled or changed.
    """
    draw, killed, stores = random.Random(0), 0, 0
    for number in rounds_in_time(times):
        stores += 1
        place = root / f"killed{number}.zarr"
        processes = [_start(place, n, 4, slides, patches) for n in range(4)]
        _wait_for(place, draw.randrange(slides - 4), processes)
        time.sleep(draw.uniform(0, 0.02))  # anywhere in the writing of a slide
        for process in processes:
            killed += process.poll() is None
            process.kill()
            process.wait()
        _run(place, 4, slides, patches)
        _check(place, slides, patches)
    notes = f"{killed} processes killed while at work, {stores} stores, {slides} slides each"
    return Result(
        "slides lost or doubled by kills of four shards", 0.0, 0.0, unit="slides", notes=notes
    )


if __name__ == "__main__":
    run("store_shards", measure, {"slides": 40, "shards": 8, "kills": 2, "few": 40, "rounds": 1})
