"""Bags of patch features, packed without padding."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from typing_extensions import override

from histotransfer_pl.store.feature_store import FeatureStore


class BagBatch(NamedTuple):
    """Bags of several slides, one behind the other.

    Attributes:
        features: (sum N, D) patch features, in the precision of the store.
        lengths: (S,) patches of each slide.
        labels: (S,) class of each slide; -1 where it is unknown.
        indices: (S,) place of each slide in the datamodule's list of slides.
        weights: (S,) share of each slide in the loss: one over the slides of the whole step,
            times the number of ranks, since DDP averages over ranks; 0 for a filler.
    """

    features: Tensor
    lengths: Tensor
    labels: Tensor
    indices: Tensor
    weights: Tensor


class Bag(NamedTuple):
    """One slide: features (N, D), its label, its place in the list and its share of the loss."""

    features: Tensor
    label: int
    number: int
    weight: float


def pack(bags: Sequence[Bag]) -> BagBatch:
    """Put bags one behind the other; a bag on its own is not copied."""
    features = [bag.features for bag in bags]
    return BagBatch(
        features=features[0] if len(bags) == 1 else torch.cat(features),  # (sum N, D)
        lengths=torch.tensor([len(bag.features) for bag in bags]),  # (S,)
        labels=torch.tensor([bag.label for bag in bags]),  # (S,)
        indices=torch.tensor([bag.number for bag in bags]),  # (S,)
        weights=torch.tensor([bag.weight for bag in bags]),  # (S,)
    )


class BagDataset(Dataset[Bag]):
    """Reads bags from a store.

    Args:
        store: The store.
        array: Which features, as ``features/<encoder>/<depth>``.
        bags: For each bag the slides whose patches it joins.
        labels: For each bag its class, -1 where unknown.
        indices: For each bag its place in the datamodule's list.
        max_patches: Keep at most so many random patches of a bag; None keeps all.
        scaling: Mean and standard deviation (D,) to standardise features with.
        keep: Keep bags in memory once they were read.
    """

    def __init__(
        self,
        store: FeatureStore,
        array: str,
        bags: Sequence[Sequence[str]],
        labels: Sequence[int],
        indices: Sequence[int],
        max_patches: int | None = None,
        scaling: tuple[Tensor, Tensor] | None = None,
        keep: bool = False,
    ) -> None:
        self.store = store
        self.array = array
        self.bags = bags
        self.labels = labels
        self.indices = indices
        self.max_patches = max_patches
        self.scaling = scaling
        self._kept: dict[int, Tensor] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.bags)

    @override
    def __getitem__(self, item: tuple[int, float]) -> Bag:
        place, weight = item
        return Bag(self._features(place), self.labels[place], self.indices[place], weight)

    def _features(self, place: int) -> Tensor:
        if self._kept is None:
            return self._read(place, sample=True)
        if place not in self._kept:
            self._kept[place] = self._read(place, sample=False)
        features = self._kept[place]  # (N, D)
        rows = self._sample(len(features))
        return features if rows is None else features[rows]

    def _read(self, place: int, *, sample: bool) -> Tensor:
        slides = [self.store.slide(slide_id) for slide_id in self.bags[place]]
        sample = sample and self.max_patches is not None
        counts = [slide.n_patches for slide in slides] if sample else []
        rows = self._sample(sum(counts)) if sample else None
        if rows is None:
            parts = [torch.from_numpy(slide.read(self.array)) for slide in slides]
            return self._scaled(parts[0] if len(parts) == 1 else torch.cat(parts))
        parts, start = [], 0
        for slide, count in zip(slides, counts, strict=True):
            own = rows[(rows >= start) & (rows < start + count)] - start
            parts.append(torch.from_numpy(slide.read(self.array, own.numpy())))
            start += count
        return self._scaled(torch.cat(parts))

    def _scaled(self, features: Tensor) -> Tensor:
        """Features (N, D) as the head gets them; what is kept in memory is scaled once."""
        if self.scaling is None:
            return features
        mean, deviation = self.scaling
        return (features.float() - mean) / deviation  # (N, D)

    def _sample(self, n: int) -> Tensor | None:
        """Sorted random rows, or None to take all: sorted reads are sequential reads."""
        if self.max_patches is None or n <= self.max_patches:
            return None
        return torch.randperm(n)[: self.max_patches].sort().values


class BagSampler(Sampler[list[tuple[int, float]]]):
    """Batches of (place, weight) for one rank.

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

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        fill: bool = False,
    ) -> None:
        self.n = n
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.fill = fill
        self.epoch = 0

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
    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
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
                yield [(place, weight) for place in mine]
            elif self.fill:
                yield [(everyone[0], 0.0)]
