"""How many processor cores this process may really use."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def available_cores(cgroups: Path = _CGROUPS, own_groups: Path = _OWN_GROUPS) -> int:
    """Cores by affinity (taskset, SLURM) and by the quota of the control group (containers).

    ``os.cpu_count`` counts those of the machine: a container with 4 of 64 would start 64 workers.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = [quota for quota in _quotas(cgroups, own_groups) if quota > 0]
    return max(1, min([cores, *(math.floor(quota) for quota in quotas)]))


def _quotas(cgroups: Path, own_groups: Path) -> list[float]:
    """Cores that this process's control groups, and those above them, grant."""
    folders = {cgroups, cgroups / "cpu"}
    for line in _text(own_groups).splitlines():
        _, controllers, path = line.split(":", 2)
        own = cgroups / ("cpu" if controllers else "") / path.lstrip("/")
        folders |= {folder for folder in (own, *own.parents) if folder.is_relative_to(cgroups)}
    found = []
    for folder in folders:
        words = _text(folder / "cpu.max").split()  # version 2: quota and period, or "max"
        words = words or [_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if len(words) == 2 and words[0] not in ("max", "") and words[1]:
            found.append(int(words[0]) / int(words[1]))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no control groups, or of the other version
        return ""
