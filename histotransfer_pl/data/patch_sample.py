"""A random sample of the patches of a store, read from their slides."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from typing_extensions import override

from histotransfer_pl.data.cohort import SlideEntry, moved_slides, read_cohort
from histotransfer_pl.data.join import join_cohort
from histotransfer_pl.data.patch_batch import PatchBatch, Piece, SlideWork
from histotransfer_pl.data.patch_source import PatchSource
from histotransfer_pl.data.patch_threads import PatchDataset
from histotransfer_pl.data.splits import split_cohort
from histotransfer_pl.data.tile import check_unmoved, grid_of
from histotransfer_pl.errors import CohortError, ConfigError, StoreMismatchError, shorten
from histotransfer_pl.records.run import split_spec
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path

_log = logging.getLogger(__name__)

Part = Literal["train", "validation", "test"]


class PatchSampleDataModule(LightningDataModule):
    """A random sample of patches of chosen slides, the same for every network that sees it.

    Coordinates and grid are those of the store, so the patches are exactly those that its
    features belong to.

    Args:
        store: Folder of the store, as ``extract`` or ``tile`` wrote it.
        cohort: CSV table of the slides to sample from; all slides of the store without it.
        slides: Folder of the slides, if they were moved since the store was made.
        part: Take the slides of this part of a split only: ``train``, ``validation`` or ``test``.
        target: Column with the class of each slide, by which the split is stratified.
        fold: The test fold, from 0.
        n_folds: Number of patient folds.
        split_seed: Seed of the folds.
        fold_column: Take the split from this column instead.
        strict: Refuse labelled slides whose features are missing, as in ``fit``.
        n_patches: Patches to draw, without replacement; all there are if there are fewer.
        batch_size: Patches of a batch.
        seed: Seed of the draw and of its order.
        threads: Threads that read.
    """

    def __init__(
        self,
        store: Path,
        cohort: Path | None = None,
        slides: Path | None = None,
        part: Part | None = None,
        target: str = "label",
        fold: int = 0,
        n_folds: int = 5,
        split_seed: int = 0,
        fold_column: str | None = None,
        strict: bool = True,
        n_patches: int = 2048,
        batch_size: int = 256,
        seed: int = 0,
        threads: int = 2,
    ) -> None:
        super().__init__()
        if batch_size < 4 or n_patches < 4 or threads < 1:
            raise ConfigError(
                f"data.batch_size is {batch_size}, data.n_patches {n_patches}, data.threads "
                f"{threads}: expected at least 4, 4 and 1"
            )
        if part is not None and cohort is None:
            raise ConfigError("data.part needs the split: give the cohort table with data.cohort")
        self.store_path = Path(store)
        self.cohort = cohort
        self.slides = slides
        self.part = part
        self.target = target
        self.strict = strict
        self.split = split_spec(fold, n_folds, split_seed, fold_column)
        self.n_patches = n_patches
        self.batch_size = batch_size
        self.seed = seed
        self.threads = threads
        self.work: list[SlideWork] = []
        self.batches: list[list[Piece]] = []
        self.patients: set[str] = set()

    @property
    def drawn(self) -> int:
        """How many patches are in the sample."""
        return sum(map(len, self.batches))

    @override
    def setup(self, stage: str) -> None:
        """Choose slides and patches; the same on every rank."""
        self.store = FeatureStore.open(self.store_path)
        self.grid = grid_of(self.store)
        self._moved = moved_slides(self.slides, self.cohort)
        self.work = [self._work(slide_id) for slide_id in self._slide_ids()]
        counts = [item.n_patches for item in self.work]
        self.batches = draw_batches(counts, self.n_patches, self.batch_size, self.seed)
        if self.drawn < 4:
            raise CohortError(
                f"{len(self.work)} slides with {self.drawn} patches: at least 4 are needed"
            )

    @override
    def test_dataloader(self) -> DataLoader[PatchBatch]:
        trainer = self.trainer
        rank, size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        if len(self.batches) < size:
            raise ConfigError(
                f"{len(self.batches)} batches cannot be shared out to {size} devices: use fewer"
            )
        return self.loader(self.batches[rank::size])

    def loader(self, batches: Sequence[Sequence[Piece]]) -> DataLoader[PatchBatch]:
        """Read these batches."""
        source, threads = PatchSource(self.store, self.grid), self.threads
        dataset = PatchDataset(source, self.work, batches, threads, ahead=threads)
        return DataLoader(dataset, batch_size=None, pin_memory=torch.cuda.is_available())

    def _slide_ids(self) -> list[str]:
        """Slides with patches that were asked for."""
        stored = self.store.slide_ids()
        if self.cohort is None:
            wanted = stored
        elif self.part is None:
            table = read_cohort(self.cohort)
            wanted = [str(name) for name in table["slide_id"]]
            if "patient_id" in table:
                self.patients = set(table["patient_id"].dropna())
        else:
            wanted = self._part(self.part)
        known = set(stored)
        found = [name for name in wanted if name in known and self.store.slide(name).n_patches]
        if not found:
            raise CohortError(
                f"none of the {len(wanted)} slides asked for has patches in {self.store.location}: "
                f"asked for {shorten(wanted)}, the store has {shorten(stored)}"
            )
        if len(found) < len(wanted):
            _log.info("%d of %d slides have patches in the store", len(found), len(wanted))
        return found

    def _part(self, part: Part) -> list[str]:
        """The slides of a part, by the very split that `fit` makes."""
        columns = () if self.split.column is None else (self.split.column,)
        if self.cohort is None:
            raise ConfigError("data.part is a part of a cohort: give data.cohort")
        labelled = join_cohort(
            self.cohort,
            self.store,
            [feature_path(*self._plain_features())],
            self.target,
            columns,
            strict=self.strict,
        ).labelled
        slide_ids = split_cohort(labelled, self.split).part(part)
        self.patients = set(labelled.loc[labelled["slide_id"].isin(slide_ids), "patient_id"])
        return slide_ids

    def _plain_features(self) -> tuple[str, str]:
        """Features of an untuned encoder: the split is made of the slides that have them."""
        for slide in self.store:
            for encoder, depth in slide.features():
                attributes = slide.info(feature_path(encoder, depth)).attributes
                if "tuned_on_patients" not in attributes:
                    return encoder, depth
        raise StoreMismatchError(
            f"{self.store.location} has no features, on which the split of fit depends: run "
            "extract first, or leave data.part out"
        )

    def _work(self, slide_id: str) -> SlideWork:
        slide = self.store.slide(slide_id)
        path = Path(slide.fact("path"))
        if self.slides is not None:
            path = self._moved.get(slide_id, self.slides / slide_id)
        entry = SlideEntry(slide_id, path)
        check_unmoved(entry.path, slide.attributes)
        return SlideWork(entry, slide.n_patches, float(slide.fact("slide_mpp")), missing=())


def draw_batches(
    counts: Sequence[int], n_patches: int, batch_size: int, seed: int
) -> list[list[Piece]]:
    """Draw patches of slides at random, without replacement, into batches.

    The patches of a batch are those that came together by chance; within it they are put in the
    order of slides and rows, which HSIC does not see, so that each slide is opened once per batch.

    Returns:
        Pieces (slide, row, row + 1) of each batch.
    """
    ends = np.cumsum(counts, dtype=np.int64)  # (S,)
    total = int(ends[-1]) if len(ends) else 0
    chosen: NDArray[np.int64] = np.random.default_rng(seed).permutation(total)[:n_patches]
    batches = []
    for start in range(0, len(chosen), batch_size):
        numbers = np.sort(chosen[start : start + batch_size])  # (B,)
        slides = np.searchsorted(ends, numbers, side="right")  # (B,)
        rows = numbers - (ends - counts)[slides]  # (B,)
        batches.append([(int(s), int(r), int(r) + 1) for s, r in zip(slides, rows, strict=True)])
    return batches
