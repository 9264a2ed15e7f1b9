"""Bags of stored features for training and evaluation."""

import logging
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from histotransfer_pl.data.bags import Bag, BagDataset, BagSampler, pack
from histotransfer_pl.data.join import Join, join_cohort
from histotransfer_pl.data.refusals import (
    refuse_seen_patients,
    require_classes,
    require_same_encoder,
)
from histotransfer_pl.data.splits import Split, split_by_column, split_by_seed
from histotransfer_pl.errors import ConfigError, SplitError, StoreMismatchError
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import decode_key, feature_path
from histotransfer_pl.store.slide import StoredSlide

_log = logging.getLogger(__name__)


class FeatureDataModule(LightningDataModule):
    """Packed bags of patch features, split by patient.

    Args:
        store: Folder of the store, as ``extract`` wrote it.
        cohort: CSV table with ``slide_id``, ``patient_id`` and the target column.
        encoder: Encoder whose features to read; may be left out if the store has only one.
        depth: Its depth; may be left out if the store has only one of this encoder.
        target: Column with the class of each slide.
        fold: The test fold, from 0.
        n_folds: Number of patient folds; one tests, the next validates, the rest trains.
        split_seed: Seed of the folds.
        fold_column: Take the split from this column instead (words or fold numbers).
        bag: What a bag holds: the patches of one slide, or of all slides of one patient (then
            two classes only, and a patient is positive if any of its slides is).
        positive: The class that makes a patient positive; of the numbers 0 and 1 it is 1, words
            must be told apart here once a patient has slides of both.
        batch_size: Bags of a step on each device.
        max_patches: In training keep at most so many random patches of a bag.
        standardize: Scale features to mean 0 and deviation 1 over the training patches.
        strict: Refuse labelled slides whose features are missing.
        num_workers: Processes that read bags.
        cache_gb: Keep the bags of a part in memory when they take no more than this.
    """

    def __init__(
        self,
        store: Path,
        cohort: Path,
        encoder: str | None = None,
        depth: str | None = None,
        target: str = "label",
        fold: int = 0,
        n_folds: int = 5,
        split_seed: int = 0,
        fold_column: str | None = None,
        bag: Literal["slide", "patient"] = "slide",
        positive: str | None = None,
        batch_size: int = 1,
        max_patches: int | None = None,
        standardize: bool = False,
        strict: bool = True,
        num_workers: int = 0,
        cache_gb: float = 2.0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or (max_patches is not None and max_patches < 1):
            raise ConfigError(
                f"data.batch_size is {batch_size} and data.max_patches {max_patches}; "
                "both count from 1"
            )
        self.store_path = Path(store)
        self.cohort = Path(cohort)
        self.encoder = encoder
        self.depth = depth
        self.target = target
        self.fold = fold
        self.n_folds = n_folds
        self.split_seed = split_seed
        self.fold_column = fold_column
        self.bag = bag
        self.positive = positive
        self.batch_size = batch_size
        self.max_patches = max_patches
        self.standardize = standardize
        self.strict = strict
        self.num_workers = num_workers
        self.cache_gb = cache_gb
        self.scaling: tuple[Tensor, Tensor] | None = None
        self._ready = False

    @override
    def setup(self, stage: str) -> None:
        if self._ready:
            return
        self.store = FeatureStore.open(self.store_path)
        self.encoder, self.depth = self._choose_features()
        self.array = feature_path(self.encoder, self.depth)
        columns = (self.fold_column,) if self.fold_column else ()
        self.join: Join = join_cohort(
            self.cohort, self.store, self.array, self.target, columns, strict=self.strict
        )
        self.classes = self.join.classes
        if len(self.classes) < 2:
            raise SplitError(
                f"column {self.target} has only the class {self.classes}; need at least two"
            )
        self.split = self._split(self.join.labelled)
        require_same_encoder(self.store, self.array, self.join.labelled["slide_id"].tolist())
        refuse_seen_patients(self.store, self.array, self.join.labelled, self.split)
        self.bags = self._bags()
        first = self.store.slide(self.join.labelled["slide_id"].iloc[0]).info(self.array)
        self.in_features = first.shape[1]
        self.provenance = {
            "encoder": self.encoder,
            "depth": self.depth,
            "weights_sha256": str(first.attributes.get("weights_sha256", "")),
            "in_features": self.in_features,
            "classes": self.classes,
            "target": self.target,
            "bag": self.bag,
        }
        if self.standardize and self.scaling is None:
            self.scaling = self._scaling()
        self._ready = True
        if self.trainer is None or self.trainer.is_global_zero:
            _log.info(self.describe())

    def describe(self) -> str:
        """The join and the class balance of each part."""
        lines = [self.join.describe()]
        for part in ("train", "validation", "test"):
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
    def train_dataloader(self) -> DataLoader[Bag]:
        return self._loader("train", shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Bag]:
        return self._loader("validation")

    @override
    def test_dataloader(self) -> DataLoader[Bag]:
        return self._loader("test")

    @override
    def predict_dataloader(self) -> DataLoader[Bag]:
        return self._loader(None)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"scaling": None if self.scaling is None else list(self.scaling)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        scaling = state_dict["scaling"]
        self.scaling = None if scaling is None else (scaling[0], scaling[1])

    def _choose_features(self) -> tuple[str, str]:
        """The encoder and depth asked for, or the only one there is."""
        if self.encoder is not None and self.depth is not None:
            return self.encoder, self.depth
        found: list[tuple[str, str]] = []
        for slide_id in self.store.slide_ids():
            found = stored_features(self.store.slide(slide_id))
            if found:
                break
        fitting = [
            (e, d) for e, d in found if self.encoder in (None, e) and self.depth in (None, d)
        ]
        if len(fitting) != 1:
            listed = ", ".join(f"{encoder} at {depth}" for encoder, depth in found) or "nothing"
            raise StoreMismatchError(
                f"{self.store_path} holds {listed}; say which with --data.encoder and --data.depth"
            )
        return fitting[0]

    def _split(self, labelled: pd.DataFrame) -> Split:
        if self.fold_column:
            return split_by_column(labelled, self.fold_column, self.fold)
        return split_by_seed(labelled, self.fold, self.n_folds, self.split_seed)

    def _bags(self) -> pd.DataFrame:
        """One row a bag: bag_id, slide_ids, patient_id, label and part."""
        slides = self.join.slides
        parts = {s: name for name in ("train", "validation", "test") for s in self.split.part(name)}
        frame = slides.assign(part=slides["slide_id"].map(parts).fillna(""))
        if self.bag == "slide":
            return frame.assign(
                bag_id=frame["slide_id"], slide_ids=frame["slide_id"].map(lambda s: [s])
            )
        if len(self.classes) != 2:
            raise ConfigError(
                f"data.bag patient needs two classes, {self.target} has {len(self.classes)}; "
                "give a table with one label a patient"
            )
        rows = []
        for patient, own in frame.groupby("patient_id"):
            labels = set(own.loc[own["label"] != "", "label"])
            rows.append(
                {
                    "bag_id": patient,
                    "slide_ids": own["slide_id"].tolist(),
                    "patient_id": patient,
                    "label": self._patient_label(str(patient), labels),
                    "part": next((p for p in own["part"] if p), ""),
                }
            )
        return require_classes(pd.DataFrame(rows), self.classes)

    def _patient_label(self, patient: str, labels: set[str]) -> str:
        """The class of a patient: the positive one if any slide is of it."""
        if len(labels) < 2:
            return next(iter(labels), "")
        positive = self.positive
        if positive is None and self.classes == ["0", "1"]:
            positive = "1"
        if positive not in self.classes:
            raise ConfigError(
                f"patient {patient!r} has slides of both classes, {' and '.join(self.classes)}: "
                f"say with data.positive which of them makes a patient positive (it is {positive})"
            )
        return positive

    def read_bag(self, slide_ids: list[str]) -> Tensor:
        """Features (N, D) of a bag, scaled as in training."""
        dataset = BagDataset(self.store, self.array, [slide_ids], [-1], [0], scaling=self.scaling)
        return dataset[(0, 1.0)].features

    def _dataset(self, part: str | None, max_patches: int | None = None) -> BagDataset:
        rows = self.bags if part is None else self.bags[self.bags["part"] == part]
        number = {name: i for i, name in enumerate(self.classes)}
        return BagDataset(
            self.store,
            self.array,
            bags=rows["slide_ids"].tolist(),
            labels=[number.get(label, -1) for label in rows["label"]],
            indices=rows.index.tolist(),
            max_patches=max_patches,
            scaling=self.scaling,
            keep=self._fits(rows["slide_ids"].tolist()),
        )

    def _fits(self, bags: list[list[str]]) -> bool:
        """Whether these bags may be kept in memory; worker processes would each keep a copy."""
        if self.num_workers or not bags:
            return False
        patches = sum(self.store.slide(s).n_patches for slides in bags for s in slides)
        return patches * self.in_features * 4 <= self.cache_gb * 1e9

    def _loader(self, part: str | None, *, shuffle: bool = False) -> DataLoader[Bag]:
        dataset = self._dataset(part, self.max_patches if shuffle else None)
        trainer = self.trainer
        rank = trainer.global_rank if trainer else 0
        world_size = trainer.world_size if trainer else 1
        if not len(dataset):
            raise SplitError(f"the {part} part has no slide")
        if len(dataset) < world_size:
            raise ConfigError(
                f"{len(dataset)} {part or 'cohort'} bags cannot be shared out to {world_size} "
                "devices: use fewer devices"
            )
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
            pin_memory=torch.cuda.is_available(),
        )

    def _order_seed(self) -> int:
        """The run's seed, which must be the same on all ranks: they share one order."""
        seed = torch.initial_seed() % 2**31
        return seed if self.trainer is None else int(self.trainer.strategy.broadcast(seed))

    def _scaling(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (D,) over the patches of the training part, bag by bag."""
        count = 0
        total = torch.zeros(self.in_features, dtype=torch.float64)  # (D,)
        squares = torch.zeros(self.in_features, dtype=torch.float64)  # (D,)
        for slide_id in self.split.train:
            features = torch.from_numpy(self.store.slide(slide_id).read(self.array)).double()
            count += len(features)
            total += features.sum(0)
            squares += features.square().sum(0)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        # A feature that never changes carries nothing; dividing it by 1 keeps it at 0.
        deviation[deviation < 1e-6] = 1
        return mean.float(), deviation.float()


def stored_features(slide: StoredSlide) -> list[tuple[str, str]]:
    """The encoders and depths a slide has features of."""
    names = [name.split("/") for name in slide.arrays() if name.startswith("features/")]
    return [(decode_key(encoder), decode_key(depth)) for _, encoder, depth in names]
