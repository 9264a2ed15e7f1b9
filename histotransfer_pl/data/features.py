"""Bags of stored features for training and evaluation."""

import logging
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from histotransfer_pl.data.bag_table import EXTERNAL, PARTS, bag_table, new_bag_table
from histotransfer_pl.data.bags import (
    Bag,
    BagBatch,
    BagDataset,
    BagItem,
    BagSampler,
    pack,
    require_finite,
)
from histotransfer_pl.data.cohort import shorten
from histotransfer_pl.data.join import Join, join_cohort, join_unlabelled
from histotransfer_pl.data.refusals import (
    refuse_seen_patients,
    refuse_trained_patients,
    refuse_unknown_classes,
    require_same_encoder,
)
from histotransfer_pl.data.splits import Split, split_cohort
from histotransfer_pl.errors import ConfigError, SplitError, StoreMismatchError
from histotransfer_pl.records.attributes import feature_spec
from histotransfer_pl.records.encoder import FeatureSpec
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.records.run import (
    ClassSpec,
    RunRecord,
    TargetSpec,
    choose_positive,
    split_spec,
)
from histotransfer_pl.store.joined import Store, StoreLocation, open_stores
from histotransfer_pl.store.layout import feature_path, mean_path, rows_of

_log = logging.getLogger(__name__)

_HOST = torch.device("cpu")
_GPU_SHARE = 0.25
"""Of the GPU's free memory, for the bags of one part: training needs the rest."""
_PACKAGES = ("histotransfer_pl", "torch", "lightning", "timm")


class FeatureDataModule(LightningDataModule):
    """Packed bags of patch features, split by patient.

    A stage asks only for what it needs. ``fit`` and ``validate`` need labels and a split. ``test``
    with a trained model whose patients are not all in this table takes every labelled slide;
    ``predict`` needs neither labels nor patients nor a table.

    Args:
        store: Folder or address of the store, as ``extract`` wrote it, or several of one grid.
        cohort: CSV table with ``slide_id``, ``patient_id`` and the target column; only ``predict``
            can do without, and then takes every slide of the store.
        encoder: Encoder whose features to read; may be left out if the store has only one.
        depth: Its depth, or several whose vectors are joined; may be left out if the store has
            only one of this encoder.
        means: Read the stored mean over the patches of each slide in place of the patches: a
            bag is then one row, for a `MeanPoolHead` without hidden layers.
        target: Column with the class of each slide.
        fold: The test fold, from 0.
        n_folds: Number of patient folds; one tests, the next validates, the rest trains.
        split_seed: Seed of the folds.
        fold_column: Take the split from this column instead (words or fold numbers).
        bag: What a bag holds: the patches of one slide, or of all slides of one patient (then
            two classes only, and a patient is positive if any of its slides is).
        positive: Of two classes the positive one, which AUPRC, F1 and sensitivity are about; may
            be left out for numbers and for words such as negative and positive.
        batch_size: Bags of a step on each device.
        max_patches: In training keep at most so many random patches of a bag.
        standardize: Scale features to mean 0 and deviation 1 over the training patches: helps
            numbers of different scale, such as those of another program, and costs a little on
            the features of an encoder.
        strict: Refuse labelled slides whose features are missing.
        num_workers: Processes that read bags.
        cache_gb: Keep the bags of a part in memory when they take no more than this.
    """

    def __init__(
        self,
        store: list[str] | str | Path,
        cohort: Path | None = None,
        encoder: str | None = None,
        depth: list[str] | str | None = None,
        target: str = "label",
        fold: int = 0,
        n_folds: int = 5,
        split_seed: int = 0,
        fold_column: str | None = None,
        bag: Literal["slide", "patient"] = "slide",
        positive: str | None = None,
        batch_size: int = 8,
        max_patches: int | None = None,
        standardize: bool = False,
        strict: bool = True,
        num_workers: int = 0,
        cache_gb: float = 2.0,
        means: bool = False,
    ) -> None:
        super().__init__()
        if means and (bag != "slide" or max_patches is not None):
            raise ConfigError(
                "data.means reads one row per slide, so data.bag must be slide and "
                "data.max_patches null"
            )
        self.means = means
        if batch_size < 1 or (max_patches is not None and max_patches < 1):
            raise ConfigError(
                f"data.batch_size is {batch_size} and data.max_patches {max_patches}; "
                "both count from 1"
            )
        self.locations: StoreLocation | Sequence[StoreLocation] = store
        self.cohort = None if cohort is None else Path(cohort)
        self.encoder = encoder
        self.depths = [depth] if isinstance(depth, str) else depth
        self.target = target
        self.split_spec = split_spec(fold, n_folds, split_seed, fold_column)
        self.bag = bag
        self.positive = positive
        self.batch_size = batch_size
        self.max_patches = max_patches
        self.standardize = standardize
        self.strict = strict
        self.num_workers = num_workers
        self.cache_gb = cache_gb
        self.trained: RunRecord | None = None
        self._prepared: Literal["nothing", "evaluation", "training"] = "nothing"
        self._seed: int | None = None

    @override
    def setup(self, stage: str) -> None:
        if self._prepared == "training":
            return
        trained = self._trained() if stage in ("test", "predict") else None
        self.store: Store = open_stores(self.locations)
        encoder, depths = self._choose_features(trained)
        path = mean_path if self.means else feature_path
        self.arrays = [path(encoder, depth) for depth in depths]
        if stage == "predict":
            self._join_to_predict(trained)
        else:
            self._join_labelled(trained)
        slide_ids = self.join.slides["slide_id"].tolist()
        require_same_encoder(self.store, self.arrays, slide_ids)
        self.features = self._feature_spec(encoder, depths, slide_ids[0])
        self._prepared = "evaluation" if stage in ("test", "predict") else "training"
        if self.trainer is None or self.trainer.is_global_zero:
            _log.info(self.describe())

    @property
    def classes(self) -> list[str]:
        """The classes in the order of the outputs; of two the positive one comes last."""
        return list(self.target_spec.classes)

    @property
    def positive_class(self) -> str | None:
        """Of two classes the one that AUPRC, F1 and sensitivity are about."""
        return self.target_spec.positive

    @property
    def in_features(self) -> int:
        """Width D of the feature vectors."""
        return self.features.width

    def record(self, head: ClassSpec) -> RunRecord:
        """What a model that trains on these bags must know later."""
        parts = self.bags["part"]
        return RunRecord(
            features=self.features,
            target=self.target_spec,
            head=head,
            bag=self.bag,
            split=self.split_spec,
            train_patients=tuple(self.patients("train")),
            validation_patients=tuple(self.patients("validation")),
            grid=None if self.store.grid is None else GridSettings.from_json(self.store.grid),
            counts={f"{part} {self.bag}s": int((parts == part).sum()) for part in PARTS},
            versions={name: version(name) for name in _PACKAGES},
            standardized=self.standardize,
        )

    def describe(self) -> str:
        """The join and the class balance of each part."""
        lines = [self.join.describe()]
        for part in [p for p in (*PARTS, EXTERNAL) if (self.bags["part"] == p).any()]:
            rows = self.bags[self.bags["part"] == part]
            balance = ", ".join(f"{c}: {(rows['label'] == c).sum()}" for c in self.classes)
            lines.append(
                f"  {part}: {len(rows)} {self.bag}s of {rows['patient_id'].nunique()} patients "
                f"({balance})"
            )
        return "\n".join(lines)

    def patients(self, part: str) -> list[str]:
        """Patients with labelled slides in ``train``, ``validation`` or ``test``."""
        rows = self.join.labelled
        own = rows.loc[rows["slide_id"].isin(self.split.part(part)), "patient_id"]
        return sorted(own.unique().tolist())

    def class_counts(self) -> Tensor:
        """Bags of each class in the training part, (C,)."""
        labels = self.bags.loc[self.bags["part"] == "train", "label"]
        return torch.tensor([int((labels == c).sum()) for c in self.classes])

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader("validation")

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test")

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        return self._loader(None)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"seed": self._seed}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seed = state_dict.get("seed")

    def draw_seed(self, *what: int) -> int:
        """A seed that follows from the run's seed and from what it is for (an epoch, a bag).

        What is drawn from it is the same in a resumed run and on any number of ranks.
        """
        return int(np.random.SeedSequence([self._order_seed(), *what]).generate_state(1)[0])

    def read_bag(self, slide_ids: list[str]) -> Tensor:
        """Features (N, D) of a bag."""
        dataset = BagDataset(self.store, self.arrays, [slide_ids], [-1], [0])
        return dataset[BagItem(0)].features

    def training_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (D,) over the patches of the training part, bag by bag."""
        count = 0
        total = torch.zeros(self.in_features, dtype=torch.float64)  # (D,)
        squares = torch.zeros(self.in_features, dtype=torch.float64)  # (D,)
        for slide_id in self.split.train:
            features = self.read_bag([slide_id]).double()  # (N, D)
            require_finite(features, repr(slide_id))
            count += len(features)
            total += features.sum(0)
            squares += features.square().sum(0)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        # A feature that never changes carries nothing; dividing it by 1 keeps it at 0.
        deviation[deviation < 1e-6] = 1
        return mean.float(), deviation.float()

    def _trained(self) -> RunRecord | None:
        """What the model that comes with the trainer knows of its training."""
        module = None if self.trainer is None else self.trainer.lightning_module
        found = self.trained or getattr(module, "record", None)
        return found if isinstance(found, RunRecord) else None

    @override
    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Lengths stay on the host: reading them back would make every step wait for the device."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if isinstance(batch, BagBatch):
            moved = moved._replace(lengths=batch.lengths)
        return moved

    def _choose_features(self, trained: RunRecord | None) -> tuple[str, list[str]]:
        """The encoder and depths asked for, or of the model, or the only ones there are."""
        encoder, depths = self.encoder, self.depths
        if trained is not None:
            encoder = encoder or trained.features.store_name or None
            depths = depths or list(trained.features.depths) or None
        if encoder is not None and depths:
            return encoder, depths
        found: list[tuple[str, str]] = []
        for slide_id in self.store.slide_ids():
            found = self.store.slide(slide_id).features("means" if self.means else "features")
            if found:
                break
        fitting = [(e, d) for e, d in found if encoder in (None, e) and d in (depths or [d])]
        if len(fitting) != 1:
            listed = ", ".join(f"{encoder} at {depth}" for encoder, depth in found) or "nothing"
            raise StoreMismatchError(
                f"{self.store.location} holds {listed}; say which with --data.encoder and "
                "--data.depth"
            )
        return fitting[0][0], [fitting[0][1]]

    def _feature_spec(self, encoder: str, depths: list[str], slide_id: str) -> FeatureSpec:
        infos = [self.store.slide(slide_id).info(array) for array in self.arrays]
        return feature_spec(
            [info.attributes for info in infos],
            encoder,
            depths,
            sum(info.shape[1] for info in infos),
            infos[0].dtype.name,
        )

    def _join_to_predict(self, trained: RunRecord | None) -> None:
        self.join: Join = join_unlabelled(self.cohort, self.store, self.arrays, self.target)
        self.target_spec = self._target() if trained is None else trained.target
        self.split = Split([], [], [])
        own = trained is not None and not self._is_other_cohort(trained)
        self.bags = new_bag_table(
            self.join.slides, trained, self.bag, self.target_spec, "test" if own else EXTERNAL
        )

    def _join_labelled(self, trained: RunRecord | None) -> None:
        if self.cohort is None:
            raise ConfigError("data.cohort must be given: only predict can do without labels")
        columns = [] if self.split_spec.column is None else [self.split_spec.column]
        elsewhere = trained is not None and self._is_other_cohort(trained)
        self.join = join_cohort(
            self.cohort,
            self.store,
            self.arrays,
            self.target,
            [] if elsewhere else columns,
            strict=self.strict,
        )
        labelled = self.join.labelled
        if trained is not None and elsewhere:
            self.target_spec = trained.target
            refuse_unknown_classes(labelled, trained.target)
            refuse_trained_patients(trained, set(), set(labelled["patient_id"]))
            self.split = Split([], [], labelled["slide_id"].tolist())
            rows = self.join.slides[self.join.slides["label"] != ""]
            self.bags = new_bag_table(rows, None, self.bag, self.target_spec, part="test")
        else:
            self.target_spec = self._target()
            self.split = split_cohort(labelled, self.split_spec)
            self.bags = bag_table(self.join.slides, self.split, self.bag, self.target_spec)
        refuse_seen_patients(self.store, self.arrays[0], labelled, self.split)

    def _is_other_cohort(self, trained: RunRecord) -> bool:
        """Whether the model comes from another cohort: not all its patients are in this table."""
        table = join_unlabelled(self.cohort, self.store, self.arrays, self.target).slides
        own = {*trained.train_patients, *trained.validation_patients}
        return not own <= set(table["patient_id"]) or not own

    def _target(self) -> TargetSpec:
        """Classes of the table, of two the positive one last."""
        classes = self.join.classes
        if len(classes) < 2:
            raise SplitError(
                f"column {self.target} has only the class {shorten(classes)}; need at least two"
            )
        positive = choose_positive(tuple(classes), self.positive)
        if len(classes) == 2:
            classes.sort(key=lambda name: name == positive)
        return TargetSpec(self.target, tuple(classes), positive if len(classes) == 2 else None)

    def _dataset(self, part: str | None, max_patches: int | None = None) -> BagDataset:
        rows = self.bags if part is None else self.bags[self.bags["part"] == part]
        number = {name: i for i, name in enumerate(self.classes)}
        # What is read once only is not kept.
        repeated = part in ("train", "validation")
        return BagDataset(
            self.store,
            self.arrays,
            bags=rows["slide_ids"].tolist(),
            labels=[number.get(label, -1) for label in rows["label"]],
            indices=rows.index.tolist(),
            max_patches=max_patches,
            seed=self._order_seed(),
            keep_on=self._memory_for(rows["slide_ids"].tolist()) if repeated else None,
        )

    def _memory_for(self, bags: list[list[str]]) -> torch.device | None:
        """Where these bags are kept once they were read: on the GPU, on the host, or nowhere.

        Worker processes would each keep a copy of their own.
        """
        if self.num_workers or not bags:
            return None
        rows = (rows_of(self.arrays[0], self.store.slide(s).n_patches) for b in bags for s in b)
        patches = sum(row or 0 for row in rows)
        size = patches * self.in_features * np.dtype(self.features.dtype).itemsize
        if size > self.cache_gb * 1e9:
            return None
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if device.type == "cuda" and size < _GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
            return device
        return _HOST

    def _loader(self, part: str | None, *, shuffle: bool = False) -> DataLoader[Bag]:
        dataset = self._dataset(part, self.max_patches if shuffle else None)
        trainer = self.trainer
        rank = trainer.global_rank if trainer else 0
        world_size = trainer.world_size if trainer else 1
        self._require_bags(len(dataset), part, world_size)
        sampler = BagSampler(
            len(dataset),
            self.batch_size,
            shuffle=shuffle,
            seed=self._order_seed(),
            rank=rank,
            world_size=world_size,
            fill=shuffle,
        )
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=pack,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            # What lies on the device already cannot be pinned, and need not be.
            pin_memory=torch.cuda.is_available() and dataset.keep_on in (None, _HOST),
        )

    def _require_bags(self, n: int, part: str | None, world_size: int) -> None:
        if not n:
            held = ", ".join(f"{name} {k}" for name, k in Counter(self.bags["part"]).items())
            raise SplitError(f"the {part} part has no {self.bag} ({held or 'nothing'})")
        if n < world_size:
            raise ConfigError(
                f"{n} {part or 'cohort'} bags cannot be shared out to {world_size} devices: use "
                "fewer devices"
            )

    def _order_seed(self) -> int:
        """The run's seed, which must be the same on all ranks: they share one order."""
        if self._seed is None:
            seed = torch.initial_seed() % 2**31
            trainer = self.trainer
            self._seed = seed if trainer is None else int(trainer.strategy.broadcast(seed))
        return self._seed
