"""Peak memory of an extraction, in a process of its own: the peak of a process never falls."""

import resource
import sys
from contextlib import redirect_stdout
from pathlib import Path

from benchmarks.extraction import Extraction


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
