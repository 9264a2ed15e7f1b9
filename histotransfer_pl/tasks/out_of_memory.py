"""Running out of memory, said in terms of the settings that help."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from histotransfer_pl.errors import ConfigError


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turn an out-of-memory error of the device or of the CPU into a message."""
    try:
        yield
    except RuntimeError as error:
        # torch has a class for its devices, and a plain RuntimeError for the CPU's allocator.
        on_device = isinstance(error, torch.OutOfMemoryError)
        if not on_device and "can't allocate memory" not in str(error):
            raise
        first = str(error).split("\n", 1)[0]
        raise ConfigError(f"out of memory: {advice} ({first})") from error
