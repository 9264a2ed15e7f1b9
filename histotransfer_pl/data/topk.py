"""The selected patches of each slide for training, all patches for evaluation."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from histotransfer_pl.data.ahead import AheadLoader
from histotransfer_pl.data.augment import augment, draw_changes, join_changes
from histotransfer_pl.data.bag_pieces import BagPieceDataset, WholeBag, require_readable
from histotransfer_pl.data.bags import BagBatch, BagDataset, BagItem, as_targets
from histotransfer_pl.data.cohort import moved_slides
from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.data.patch_cache import PatchCache
from histotransfer_pl.data.patches import reading_of
from histotransfer_pl.data.selection import read_selections, require_selection
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.run import ClassSpec, RunRecord, SelectionSpec
from histotransfer_pl.store.layout import selection_path


class TopKPatchDataModule(FeatureDataModule):
    """Bags of patch images: the selected ones in training, all of them in evaluation.

    Join, split and refusals are those of ``FeatureDataModule``, on the features the selection was
    made from.

    Args:
        store: Folder of the store, with a selection that ``select`` wrote.
        cohort: CSV table with ``slide_id``, ``patient_id`` and the target column.
        selection: Name of the selection.
        slides: Folder of the slides, if they were moved since ``extract``.
        batch_size: Bags of a training step on each device.
        eval_patches: Patches of a batch in evaluation.
        augment: Turn, mirror and restain training patches.
        stain_jitter: Largest change of a stain; 0.05 is light, 0.2 strong, 0 none.
        threads: Threads that read; by default 2, or the cores that this process may use where a
            GPU trains.
        cache: Where decoded patches are kept: in ``memory`` (of each device), on ``disk``, where
            the next run with the same ``cache_dir`` finds them, or ``none``.
        cache_dir: Folder of the patches on disk; by default ``patches`` in the run's own folder.
        cache_gb: How much to keep.
        **bags: Target, split and bags, as of ``FeatureDataModule``.
    """

    def __init__(
        self,
        store: Path,
        cohort: Path,
        selection: str,
        slides: Path | None = None,
        batch_size: int = 1,
        eval_patches: int = 64,
        augment: bool = True,
        stain_jitter: float = 0.05,
        threads: int | None = None,
        cache: Literal["memory", "disk", "none"] = "memory",
        cache_dir: Path | None = None,
        cache_gb: float = 2.0,
        **bags: Any,
    ) -> None:
        super().__init__(
            store,
            cohort,
            batch_size=batch_size,
            cache_gb=cache_gb,
            # What is said of stored features: those of the selection are taken as they are.
            encoder=None,
            depth=None,
            means=False,
            max_patches=None,
            standardize=False,
            num_workers=0,
            covariates=None,
            **bags,
        )
        if eval_patches < 1 or (threads is not None and threads < 1) or stain_jitter < 0:
            raise ConfigError(
                f"data.eval_patches is {eval_patches}, data.threads {threads} and "
                f"data.stain_jitter {stain_jitter}: expected at least 1, 1 and 0"
            )
        self.selection = selection
        self.slides = slides
        self.eval_patches = eval_patches
        self.augment = augment
        self.stain_jitter = stain_jitter
        self.threads = threads
        self.cache_place = cache
        self.cache_dir = cache_dir
        self.candidates: dict[str, NDArray[np.int32]] = {}
        self._restored: dict[str, Tensor] = {}

    @override
    def setup(self, stage: str) -> None:
        if self._prepared == "training":
            return
        super().setup(stage)
        limit = 0 if self.cache_place == "none" else self.cache_gb * 1e9
        moved = moved_slides(self.slides, self.cohort)
        self.cache = PatchCache(self.store, limit, moved, self._cache_folder())
        self._read_selections()
        for slide_ids in self.bags["slide_ids"]:
            for slide_id in slide_ids:
                self.cache.check_slide(slide_id)
        self._restore_candidates()

    @override
    def record(self, head: ClassSpec) -> RunRecord:
        facts = self.selection_facts
        chosen = SelectionSpec(
            self.selection, str(facts["rule"]), self.k, str(facts["checkpoint_sha256"])
        )
        return replace(super().record(head), selection=chosen)

    @override
    def teardown(self, stage: str) -> None:
        """Close slides and kept patches; they are opened again when asked for."""
        if self._prepared != "nothing":
            self.cache.close()

    @override
    def train_dataloader(self) -> Any:
        """Patches are read, decoded and put together outside the training loop."""
        return AheadLoader(self._loader("train", shuffle=True))

    @override
    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move a batch, and augment training patches on the device."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        trainer = self.trainer
        if not (self.augment and isinstance(batch, BagBatch) and trainer and trainer.training):
            return moved
        changes = []
        for index, count in zip(batch.indices.tolist(), batch.lengths.tolist(), strict=True):
            seed = self.draw_seed(trainer.current_epoch, index)
            generator = torch.Generator().manual_seed(seed)
            changes.append(draw_changes(count, generator, self.stain_jitter))
        return moved._replace(features=augment(moved.features, join_changes(changes)))

    @override
    def state_dict(self) -> dict[str, Any]:
        candidates = {name: torch.from_numpy(rows) for name, rows in self.candidates.items()}
        return {**super().state_dict(), "candidates": candidates}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._restored = state_dict["candidates"]
        if self._prepared != "nothing":
            self._restore_candidates()

    @property
    def reading_threads(self) -> int:
        """Threads that read, by what the device and the cores allow where nothing is said."""
        return self.threads or reading_of(self.trainer).threads

    def candidate_chunks(self, slide_id: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Readable candidates of a slide in pieces: rows (B,) and patches (B, P, P, 3)."""
        # In the order of the rows, so that the ranking before doesn't break ties.
        rows = np.sort(self.candidates[slide_id])
        for start in range(0, len(rows), size):
            some = rows[start : start + size].tolist()
            read = [(row, self.cache.read(slide_id, row)) for row in some]
            found = [(row, patch) for row, patch in read if patch is not None]
            if found:
                patches = torch.from_numpy(np.stack([patch for _, patch in found]))
                yield torch.tensor([row for row, _ in found]), patches

    @override
    def _choose_features(self, trained: RunRecord | None) -> tuple[str, list[str]]:
        """The features the selection was made from."""
        facts = self._selection_of_any_slide()
        return str(facts["encoder"]), [str(facts["depth"])]

    def _selection_of_any_slide(self) -> dict[str, Any]:
        array = selection_path(self.selection)
        for slide_id in self.store.slide_ids():
            slide = self.store.slide(slide_id)
            if slide.has(array):
                return slide.info(array).attributes
        require_selection(self.store, self.selection, self.store.slide_ids())
        raise ConfigError(f"{self.store.location} holds no slide: extract slides first")

    def _read_selections(self) -> None:
        """Those of the training part; a model that is only evaluated has none."""
        # Unlabelled slides of a patient are in its bag too.
        trained = self._bags_of("train")["slide_ids"].explode().tolist()
        selections = read_selections(self.store, self.selection, trained)
        self.candidates = {name: found.candidates for name, found in selections.items()}
        self.selection_facts = (
            selections[trained[0]].attributes if trained else self._selection_of_any_slide()
        )
        self.k = int(self.selection_facts["k"])

    @override
    def _dataset(self, part: str | None, max_patches: int | None = None) -> BagDataset:
        plain = super()._dataset(part, max_patches)
        return TopKDataset(plain, self)

    @override
    def _evaluation_loader(self, part: str | None) -> DataLoader[Any]:
        rows = self._bags_of(part)
        rank, world_size = self._rank_of(len(rows), part)
        targets = as_targets(self.targets)
        mine = rows.iloc[rank::world_size]
        bags = [
            WholeBag(
                tuple((s, self.store.slide(s).n_patches) for s in slide_ids),
                targets[index],
                index,
            )
            for slide_ids, index in zip(mine["slide_ids"], mine.index.tolist(), strict=True)
        ]
        dataset = BagPieceDataset(self.cache, bags, self.eval_patches, self.reading_threads)
        return DataLoader(dataset, batch_size=None, pin_memory=torch.cuda.is_available())

    def _cache_folder(self) -> Path | None:
        if self.cache_place != "disk":
            return None
        if self.cache_dir is not None:
            return Path(self.cache_dir)
        if self.trainer is None:
            raise ConfigError("data.cache is disk, without a run: give data.cache_dir")
        return Path(self.trainer.default_root_dir) / "patches"

    def _restore_candidates(self) -> None:
        """Take up the selection of a resumed run, as it was refreshed."""
        for slide_id in self.candidates.keys() & self._restored.keys():
            self.candidates[slide_id] = self._restored[slide_id].numpy()


class TopKDataset(BagDataset):
    """Bags of the k best readable patches of each slide, as uint8 (sum K, P, P, 3).

    Args:
        bags: The same bags of stored features.
        data: Where candidates and pixels come from; its candidates may change between epochs.
    """

    def __init__(self, bags: BagDataset, data: TopKPatchDataModule) -> None:
        super().__init__(bags.store, bags.arrays, bags.bags, bags.targets, bags.indices)
        self._data = data
        self._pool = ThreadPoolExecutor(data.reading_threads)

    @override
    def _features(self, item: BagItem) -> Tensor:
        slide_ids = self.bags[item.place]
        patches = [patch for slide_id in slide_ids for patch in self._best(slide_id)]
        require_readable(len(patches), f"bag {slide_ids}")
        return torch.from_numpy(np.stack(patches))  # (sum K, P, P, 3)

    def _best(self, slide_id: str) -> list[NDArray[np.uint8]]:
        """The k best patches that can be read: the next in rank replaces a damaged one."""
        cache, k = self._data.cache, self._data.k
        rows = self._data.candidates[slide_id].tolist()
        read = list(self._pool.map(lambda row: cache.read(slide_id, row), rows[:k]))
        spare = iter(rows[k:])
        patches = [patch for patch in read if patch is not None]
        while len(patches) < k and (row := next(spare, None)) is not None:
            patch = cache.read(slide_id, row)
            if patch is not None:
                patches.append(patch)
        return patches
