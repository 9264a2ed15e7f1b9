"""What the measurements ran on."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

_PACKAGES = (
    *("torch", "lightning", "timm", "zarr", "numpy"),
    *("openslide-python", "openslide-bin", "tifffile", "simplejpeg", "imagecodecs"),
)


def describe() -> dict[str, str]:
    """Processor, memory, threads, device and versions."""
    facts = {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "threads of torch": str(torch.get_num_threads()),
        "load at the start": f"{os.getloadavg()[0]:.1f}",
    }
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
    facts["versions"] = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in _PACKAGES)
    return facts


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
