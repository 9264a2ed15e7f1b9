"""What one slide may cost: its errors stay its own, and so does its memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histotransfer_pl.errors import HistoTransferError, SlideError

SLIDE_MEMORY_GIB = 4.0
"""Memory that one step of reading a slide may take: a thumbnail of 260 megapixels."""

_GIB = 1 << 30


@contextmanager
def slide_errors(path: Path) -> Iterator[None]:
    """Turn whatever a slide raises into a SlideError that names it, so that other slides go on."""
    try:
        yield
    except HistoTransferError:
        raise
    except Exception as error:
        raise SlideError(
            f"slide {path} cannot be read ({type(error).__name__}: {error}); copy it again from "
            "its source or leave it out"
        ) from error


def require_memory(path: Path, what: str, n_bytes: float, memory_gib: float) -> None:
    """Refuse a step that would take more memory than a slide may.

    Args:
        path: The slide's file.
        what: What would take it, such as ``a thumbnail of 9000 x 9000 px``.
        n_bytes: How much it would take.
        memory_gib: How much it may take.
    """
    if not n_bytes <= memory_gib * _GIB:
        raise SlideError(
            f"slide {path}: {what} would take {n_bytes / _GIB:.3g} GiB of memory, a slide may take "
            f"{memory_gib:g}; check the file and the resolutions, or raise data.slide_memory_gib"
        )
