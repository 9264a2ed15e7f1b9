"""What a verb costs before it does anything: `python -m benchmarks.startup`."""

import resource
import statistics
import subprocess
import sys

from benchmarks.program import run
from benchmarks.result import Result

VERBS = ("verify", "tile", "import", "export", "doctor")


def measure(rounds: int = 2) -> list[Result]:
    """CPU seconds of ``VERB --help`` by those of ``python -c 'import torch'``.

    Args:
        rounds: Rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in ("torch", *VERBS)}
    for _ in range(rounds + 1):  # the first one fills the page cache
        times["torch"].append(cpu_seconds("-c", "import torch"))
        for verb in VERBS:
            times[verb].append(cpu_seconds("-m", "histotransfer_pl", verb, "--help"))
    torch_s = times["torch"][1:]
    return [
        Result(
            f"start of `{verb}` vs `import torch`",
            statistics.median(a / b for a, b in zip(times[verb][1:], torch_s, strict=True)),
            0.5,
            "CPU-s / CPU-s",
            notes=f"{statistics.median(times[verb][1:]):.2f} CPU-s against "
            f"{statistics.median(torch_s):.2f}, {rounds} rounds",
        )
        for verb in VERBS
    ]


def cpu_seconds(*arguments: str) -> float:
    """CPU time, of all its threads, of one Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


if __name__ == "__main__":
    run("startup", measure, {"rounds": 1})
