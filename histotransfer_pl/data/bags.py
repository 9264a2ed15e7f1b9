"""Bags of patch features, packed without padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info
from typing_extensions import override

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.joined import Store
from histotransfer_pl.store.slide import StoredSlide


def require_finite(features: Tensor, bag: str, *, stored: bool = True) -> None:
    """Name the bag whose features (N, D) are to blame, rather than the learning rate."""
    bad = (~features.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        remedy = "; run verify on the store and extract that slide again" if stored else ""
        raise StoreError(
            f"features of {bag} hold NaN or infinite values in {len(bad)} of {len(features)} rows "
            f"(first: {bad[0]}){remedy}"
        )


class BagBatch(NamedTuple):
    """Bags of several slides, one behind the other.

    Attributes:
        features: (sum N, D) patch features, in the precision of the store.
        lengths: (S,) patches of each slide; on the host, also where the rest is on a device.
        targets: (S,) class or value of each slide, or (S, K) for several labels or survival; -1
            or NaN where it is unknown.
        indices: (S,) place of each slide in the datamodule's list of slides.
        weights: (S,) share of each slide in the loss: one over the slides of the whole step,
            times the number of ranks, since DDP averages over ranks; 0 for a filler.
        covariates: (S, V) clinical covariates of each slide; None in a script without them.
    """

    features: Tensor
    lengths: Tensor
    targets: Tensor
    indices: Tensor
    weights: Tensor
    covariates: Tensor | None = None


class Bag(NamedTuple):
    """One slide: features (N, D), target, place in the list, share of the loss, covariates (V,)."""

    features: Tensor
    target: Tensor | int
    number: int
    weight: float
    covariates: Tensor | None = None


class BagItem(NamedTuple):
    """What a sampler asks a dataset for: a place, its share of the loss, and the epoch."""

    place: int
    weight: float = 1.0
    epoch: int = 0


def as_targets(targets: ArrayLike) -> Tensor:
    """Targets (S,) or (S, K) as batches hold them: classes as integers, all else as float32."""
    found = torch.as_tensor(np.asarray(targets))
    return found.float() if found.is_floating_point() else found


def pack(bags: Sequence[Bag | tuple[Tensor, int | Tensor]]) -> BagBatch:
    """Put bags one behind the other; a bag on its own is not copied.

    It is the ``collate_fn`` of a DataLoader of bags, also of plain pairs (features (N, D), target).

    Example:
        >>> batch = pack([(torch.zeros(3, 8), 1), (torch.zeros(2, 8), 0)])
        >>> tuple(batch.features.shape), batch.lengths.tolist()
        ((5, 8), [3, 2])
    """
    whole = [
        bag if isinstance(bag, Bag) else Bag(bag[0], bag[1], place, 1 / len(bags))
        for place, bag in enumerate(bags)
    ]
    features = [bag.features for bag in whole]
    covariates = [bag.covariates for bag in whole if bag.covariates is not None]
    return BagBatch(
        features=features[0] if len(whole) == 1 else _put_together(features),  # (sum N, D)
        lengths=torch.tensor([len(bag.features) for bag in whole]),  # (S,)
        targets=torch.stack([torch.as_tensor(bag.target) for bag in whole]),  # (S,) or (S, K)
        indices=torch.tensor([bag.number for bag in whole]),  # (S,)
        weights=torch.tensor([bag.weight for bag in whole]),  # (S,)
        covariates=torch.stack(covariates) if covariates else None,  # (S, V)
    )


def _put_together(features: list[Tensor]) -> Tensor:
    """Features (sum N, ...); where a GPU waits for them, in memory that it reads itself."""
    on_host = features[0].device.type == "cpu" and get_worker_info() is None
    if not (on_host and torch.cuda.is_available()):
        return torch.cat(list(features))
    shape = (sum(map(len, features)), *features[0].shape[1:])
    return torch.cat(
        list(features), out=torch.empty(shape, dtype=features[0].dtype, pin_memory=True)
    )


Bags = BagBatch | tuple[Tensor, int | Tensor]
"""A batch of bags, or a plain pair (features (N, D) or (1, N, D), target) as one bag."""


def as_batch(bags: Bags) -> BagBatch:
    """The batch of what a DataLoader gives."""
    if isinstance(bags, BagBatch):
        return bags
    features, target = bags
    if isinstance(target, Tensor) and target.ndim and len(target) == 1:
        target = target[0]  # as torch's own collation makes it
    return pack([(features.flatten(0, -2), target)])


@dataclass(eq=False)
class BagDataset(Dataset[Bag]):
    """Reads bags from a store.

    Args:
        store: The store.
        arrays: Which features, as ``features/<encoder>/<depth>``; of several the vectors are
            joined.
        bags: For each bag the slides whose patches it joins.
        targets: (S,) or (S, K) target of each bag, as of ``as_targets``; -1 or NaN where unknown.
        indices: For each bag its place in the datamodule's list.
        max_patches: Keep at most so many random patches of a bag; None keeps all.
        seed: Seed of the random patches; which are drawn depends on it, the epoch and the bag.
        keep_on: Where bags are kept once they were read; None reads them again and again.
        covariates: (S, V) clinical covariates of each bag.
    """

    store: Store
    arrays: Sequence[str]
    bags: Sequence[Sequence[str]]
    targets: Tensor
    indices: Sequence[int]
    max_patches: int | None = None
    seed: int = 0
    keep_on: torch.device | None = None
    covariates: Tensor | None = None
    _kept: dict[int, Tensor] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self.bags)

    @override
    def __getitem__(self, item: BagItem) -> Bag:
        features = self._features(item)
        place = item.place
        own = None if self.covariates is None else self.covariates[place]
        return Bag(features, self.targets[place], self.indices[place], item.weight, own)

    def _features(self, item: BagItem) -> Tensor:
        if self.keep_on is None:
            return self._read(item)
        if item.place not in self._kept:
            self._kept[item.place] = self._read(item, sample=False).to(self.keep_on)
        features = self._kept[item.place]  # (N, D)
        rows = self._sample(len(features), item)
        return features if rows is None else features[rows.to(self.keep_on)]

    def _read(self, item: BagItem, *, sample: bool = True) -> Tensor:
        slides = [self.store.slide(slide_id) for slide_id in self.bags[item.place]]
        counts = [slide.n_patches for slide in slides] if self.max_patches and sample else []
        rows = self._sample(sum(counts), item)
        if rows is None:
            return _joined([self._vectors(slide, None) for slide in slides])  # (N, D)
        parts, start = [], 0
        for slide, count in zip(slides, counts, strict=True):
            own = rows[(rows >= start) & (rows < start + count)] - start
            parts.append(self._vectors(slide, own.numpy()))
            start += count
        return _joined(parts)  # (max_patches, D)

    def _vectors(self, slide: StoredSlide, rows: NDArray[np.int64] | None) -> Tensor:
        """Features (K, D) of the rows of a slide."""
        parts = [torch.from_numpy(slide.read(array, rows)) for array in self.arrays]
        return _joined(parts, dim=1)

    def _sample(self, n: int, item: BagItem) -> Tensor | None:
        """Sorted random rows, or None to take all: sorted reads are sequential reads.

        The draw follows from the seed, the epoch and the bag alone, so that a resumed run draws
        what the uninterrupted one does.
        """
        if self.max_patches is None or n <= self.max_patches:
            return None
        seed = np.random.SeedSequence([self.seed, item.epoch, item.place]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))
        return torch.randperm(n, generator=generator)[: self.max_patches].sort().values


def _joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


@dataclass(eq=False)
class BagSampler(Sampler[list[BagItem]]):
    """Batches of items for one rank.

    Every epoch cuts one order of all bags into steps of ``batch_size`` times ``world_size``
    bags, and gives each rank its share of each step. Nothing is repeated to fill the last step:
    a rank that has no bag left there gets a filler of weight 0, so that a step on several
    ranks has the gradient of the same step on one.

    Args:
        n: Number of bags.
        batch_size: Bags of a step on one rank.
        shuffle: Draw a new order each epoch.
        seed: Seed of the orders.
        rank: This process.
        world_size: Number of processes.
        fill: Give a rank without a bag a filler (training, where ranks must step together).
    """

    n: int
    batch_size: int
    shuffle: bool = field(default=False, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    rank: int = field(default=0, kw_only=True)
    world_size: int = field(default=1, kw_only=True)
    fill: bool = field(default=False, kw_only=True)
    epoch: int = field(default=0, init=False)

    @property
    def sampler(self) -> "BagSampler":
        """Itself: Lightning looks here for what wants to know the epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(list(iter(self)))

    @override
    def __iter__(self) -> Iterator[list[BagItem]]:
        order = list(range(self.n))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
            order = torch.randperm(self.n, generator=generator).tolist()
        step = self.batch_size * self.world_size
        for start in range(0, self.n, step):
            everyone = order[start : start + step]
            mine = everyone[self.rank :: self.world_size]
            weight = self.world_size / len(everyone)
            if mine:
                yield [BagItem(place, weight, self.epoch) for place in mine]
            elif self.fill:
                yield [BagItem(everyone[0], 0.0, self.epoch)]
