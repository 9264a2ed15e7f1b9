"""What the readers of patches hand to the encoder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from histotransfer_pl.data.cohort import SlideEntry
from histotransfer_pl.data.patch_source import ReadCost, SlideFile

Piece = tuple[int, int, int]
"""Place of a bag or slide in a list, its first row, and the row behind its last."""


class PatchBatch(NamedTuple):
    """Patches of one or several slides.

    Attributes:
        patches: (B, P, P, 3) uint8.
        slides: (B,) places in the list of work, on the host.
        rows: (B,) rows of the slides' arrays, on the host.
        wanted: Arrays that at least one slide of the batch lacks.
        failures: Place and reason of slides that could not be read.
        cost: What the reading took.
    """

    patches: Tensor
    slides: Tensor
    rows: Tensor
    wanted: list[str]
    failures: list[tuple[int, str]]
    cost: ReadCost


@dataclass(frozen=True)
class SlideWork:
    """A slide to read: its file, coordinates in the store, and the arrays it lacks."""

    entry: SlideEntry
    n_patches: int
    slide_mpp: float
    missing: tuple[str, ...]

    @property
    def file(self) -> SlideFile:
        """What a reader needs to know of it."""
        return SlideFile(self.entry.slide_id, self.entry.path, self.slide_mpp)


def wanted_arrays(work: Sequence[SlideWork], places: set[int]) -> list[str]:
    """The arrays that at least one of these slides lacks."""
    return sorted({name for place in places for name in work[place].missing})


def cut_into_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[Piece]]:
    """Cut bags or slides, one behind the other, into batches of ``batch_size`` (the last less)."""
    pieces: list[Piece] = []
    room = batch_size
    for place, length in enumerate(lengths):
        start = 0
        while start < length:
            stop = min(start + room, length)
            pieces.append((place, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield pieces
                pieces, room = [], batch_size
    if pieces:
        yield pieces
