"""All patches of bags, in batches of bounded size."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from typing_extensions import override

from histotransfer_pl.data.patch_batch import Piece, cut_into_batches
from histotransfer_pl.data.patch_cache import PatchCache
from histotransfer_pl.errors import SlideError


class BagPieces(NamedTuple):
    """A batch of patches: the end of one bag, whole bags, the beginning of the next.

    Attributes:
        patches: (B, P, P, 3) uint8; patches that cannot be read are left out.
        rows: (B,) place of each patch in its bag.
        sizes: (S,) patches of each piece.
        lengths: (S,) patches that the whole bag has, unreadable ones included.
        targets: (S,) or (S, K) target of each bag; -1 or NaN where it is unknown.
        indices: (S,) place of each bag in the datamodule's list.
        ends: (S,) whether the bag ends with this piece; only the last one may go on.
    """

    patches: Tensor
    rows: Tensor
    sizes: Tensor
    lengths: Tensor
    targets: Tensor
    indices: Tensor
    ends: Tensor


@dataclass(frozen=True)
class WholeBag:
    """A bag to read: its slides with their numbers of patches, its target and its place."""

    slides: tuple[tuple[str, int], ...]
    target: Tensor
    index: int

    @property
    def length(self) -> int:
        """Patches of all slides."""
        return sum(n for _, n in self.slides)


@dataclass(eq=False)
class BagPieceDataset(IterableDataset[BagPieces]):
    """Reads bags one behind the other, some batches ahead, so that memory is that of batches."""

    cache: PatchCache
    bags: Sequence[WholeBag]
    batch_size: int
    threads: int

    @override
    def __iter__(self) -> Iterator[BagPieces]:
        with ThreadPoolExecutor(self.threads) as pool:
            coming: deque[Future[BagPieces]] = deque()
            try:
                for pieces in cut_into_batches([b.length for b in self.bags], self.batch_size):
                    coming.append(pool.submit(self._read, pieces))
                    if len(coming) > self.threads:
                        yield coming.popleft().result()
                while coming:
                    yield coming.popleft().result()
            finally:
                for future in coming:
                    future.cancel()

    def _read(self, pieces: list[Piece]) -> BagPieces:
        patches: list[np.ndarray] = []
        rows: list[int] = []
        sizes = []
        for piece in pieces:
            before = len(rows)
            for row, (slide_id, own_row) in self._addresses(piece):
                patch = self.cache.read(slide_id, own_row)
                if patch is not None:
                    patches.append(patch)
                    rows.append(row)
            sizes.append(len(rows) - before)
        side = self.cache.grid.patch_px
        images = np.stack(patches) if patches else np.empty((0, side, side, 3), np.uint8)
        bags = [self.bags[place] for place, _, _ in pieces]
        return BagPieces(
            patches=torch.from_numpy(images),  # (B, P, P, 3)
            rows=torch.tensor(rows, dtype=torch.long),  # (B,)
            sizes=torch.tensor(sizes),  # (S,)
            lengths=torch.tensor([bag.length for bag in bags]),  # (S,)
            targets=torch.stack([bag.target for bag in bags]),  # (S,) or (S, K)
            indices=torch.tensor([bag.index for bag in bags]),  # (S,)
            ends=torch.tensor(
                [stop == bag.length for (_, _, stop), bag in zip(pieces, bags, strict=True)]
            ),  # (S,)
        )

    def _addresses(self, piece: Piece) -> Iterator[tuple[int, tuple[str, int]]]:
        """Place in the bag, and slide and row, of each patch of a piece."""
        (place, start, stop), first = piece, 0
        for slide_id, n in self.bags[place].slides:
            for row in range(max(start, first), min(stop, first + n)):
                yield row, (slide_id, row - first)
            first += n


def require_readable(n: int, bag: str) -> None:
    """Refuse a bag of which nothing can be read."""
    if n == 0:
        raise SlideError(
            f"no patch of {bag} can be read: copy its slides again from their source, or leave "
            "them out of the cohort"
        )
