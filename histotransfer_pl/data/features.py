"""Bags of stored features for training and evaluation."""

import logging
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from histotransfer_pl import __version__
from histotransfer_pl.data.bag_source import BagSource
from histotransfer_pl.data.bag_table import EXTERNAL
from histotransfer_pl.data.bags import (
    Bag,
    BagBatch,
    BagDataset,
    BagItem,
    BagSampler,
    as_targets,
    pack,
    require_finite,
)
from histotransfer_pl.data.covariates import encode_covariates, learn_covariates
from histotransfer_pl.data.feature_choice import choose_features, read_feature_spec
from histotransfer_pl.data.refusals import require_same_encoder
from histotransfer_pl.data.splits import PARTS
from histotransfer_pl.errors import ConfigError, SplitError
from histotransfer_pl.outcomes.kinds import outcome_of, target_of_settings
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.records.run import ClassSpec, RunRecord, SplitBy, TaskKind, split_spec
from histotransfer_pl.store.joined import Store, StoreLocation, open_stores
from histotransfer_pl.store.layout import feature_path, mean_path, rows_of

_log = logging.getLogger(__name__)

_HOST = torch.device("cpu")
_GPU_SHARE = 0.25
"""Of the GPU's free memory, for the bags of one part: training needs the rest."""
_PACKAGES = ("torch", "lightning", "timm")


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
        target: Column with the class or value of each slide; for survival the columns of time
            and event, for several labels one column each.
        task: Kind of the target: ``classification``, ``ordinal``, ``multilabel``, ``regression``
            or ``survival``.
        classes: Order of the classes, which ordinal words need, lowest first.
        fold: The test fold, from 0.
        n_folds: Number of patient folds; one tests, the next validates, the rest trains.
        split_seed: Seed of the folds.
        fold_column: Take the split from this column instead (words or fold numbers).
        split_by: What stays on one side of a split: ``patient``, or ``site`` (leave-site-out with
            as many folds as sites).
        covariates: Columns of numbers or words that the head reads beside the patches, scaled or
            one-hot by the training part.
        site: Column with the site of each slide; ``tcga`` reads it out of TCGA names. With it,
            ``fit`` warns where the label can be read off the site.
        bag: What a bag holds: the patches of one slide, or of all slides of one patient (of two
            classes a patient is positive if any of its slides is; it has one value or survival).
        positive: Of two classes the positive one, which AUPRC, F1 and sensitivity are about; may
            be left out for numbers and for words such as negative and positive.
        batch_size: Bags of a step on each device; survival's usual loss compares these slides.
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
        target: list[str] | str = "label",
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
        task: TaskKind = "classification",
        classes: list[str] | None = None,
        split_by: SplitBy = "patient",
        site: str | None = None,
        covariates: list[str] | None = None,
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
        self.source = BagSource(
            self.cohort,
            target_of_settings(
                {"target": target, "task": task, "positive": positive, "classes": classes}
            ),
            split_spec(fold, n_folds, split_seed, fold_column, split_by),
            bag,
            strict,
            site,
            tuple(covariates or ()),
        )
        self.bag = bag
        self.batch_size = batch_size
        self.max_patches = max_patches
        self.standardize = standardize
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
        found = (
            self.source.to_predict(self.store, self.arrays, trained)
            if stage == "predict"
            else self.source.to_train(self.store, self.arrays)
            if trained is None
            else self.source.to_test(self.store, self.arrays, trained)
        )
        self.join, self.target_spec, self.split = found.join, found.target, found.split
        self.bags = found.bags
        self.targets = outcome_of(self.target_spec).encode(self.bags)
        self.covariate_specs = (
            learn_covariates(self._bags_of("train"), self.source.covariates)
            if trained is None
            else trained.covariates
        )
        covariates = encode_covariates(self.bags, self.covariate_specs)
        self.covariates = torch.from_numpy(covariates)  # (S, V)
        slide_ids = self.join.slides["slide_id"].tolist()
        require_same_encoder(self.store, self.arrays, slide_ids)
        self.features = read_feature_spec(self.store, self.arrays, encoder, depths, slide_ids[0])
        self._prepared = "evaluation" if stage in ("test", "predict") else "training"
        if self.trainer is None or self.trainer.is_global_zero:
            _log.info(self.describe())
            if stage == "fit":
                self.source.warn_of_confounding(self.join.labelled)

    @property
    def classes(self) -> list[str]:
        """The classes in the order of the outputs, of two the positive one last; or the labels."""
        return list(self.target_spec.classes)

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
            split=self.source.split,
            train_patients=tuple(self.patients("train")),
            validation_patients=tuple(self.patients("validation")),
            grid=None if self.store.grid is None else GridSettings.from_json(self.store.grid),
            counts={f"{part} {self.bag}s": int((parts == part).sum()) for part in PARTS},
            versions={"histotransfer_pl": __version__}
            | {name: version(name) for name in _PACKAGES},
            standardized=self.standardize,
            covariates=self.covariate_specs,
        )

    def describe(self) -> str:
        """The join and the balance of each part."""
        lines = [self.join.describe()]
        kind = self.source.target.kind
        for part in [p for p in (*PARTS, EXTERNAL) if (self.bags["part"] == p).any()]:
            rows = self._bags_of(part)
            known = rows[rows["label"] != ""]
            balance = kind.balance(known, self.target_spec) if len(known) else "unlabelled"
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

    def training_targets(self) -> NDArray[Any]:
        """Targets of the bags of the training part, (S,) or (S, K); none where nobody trains."""
        if not self.split.train:
            return self.targets[:0]
        return self.targets[self._bags_of("train").index]

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return self._evaluation_loader("validation")

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        return self._evaluation_loader("test")

    @override
    def predict_dataloader(self) -> DataLoader[Any]:
        return self._evaluation_loader(None)

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
        dataset = BagDataset(self.store, self.arrays, [slide_ids], torch.tensor([-1]), [0])
        return dataset[BagItem(0)].features

    def training_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (D,) over the patches of the training part, bag by bag."""
        scaler = StandardScaler()
        for slide_id in self.split.train:
            features = self.read_bag([slide_id]).double()  # (N, D)
            require_finite(features, repr(slide_id))
            scaler.partial_fit(features.numpy())
        deviation = np.sqrt(scaler.var_)  # (D,)
        # A feature that never changes carries nothing; dividing it by 1 keeps it at 0.
        deviation[deviation < 1e-6] = 1
        return torch.from_numpy(scaler.mean_).float(), torch.from_numpy(deviation).float()

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
        if not isinstance(batch, BagBatch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        moved = {
            name: part.to(device, non_blocking=True)
            for name, part in batch._asdict().items()
            if part is not None and name != "lengths"
        }
        return batch._replace(**moved)

    def _choose_features(self, trained: RunRecord | None) -> tuple[str, list[str]]:
        """The encoder and depths asked for, or of the model, or the only ones there are."""
        encoder, depths = self.encoder, self.depths
        if trained is not None:
            encoder = encoder or trained.features.store_name or None
            depths = depths or list(trained.features.depths) or None
        return choose_features(self.store, encoder, depths, "means" if self.means else "features")

    def _bags_of(self, part: str | None) -> pd.DataFrame:
        return self.bags if part is None else self.bags[self.bags["part"] == part]

    def _dataset(self, part: str | None, max_patches: int | None = None) -> BagDataset:
        rows = self._bags_of(part)
        places = rows.index.tolist()
        # What is read once only is not kept.
        repeated = part in ("train", "validation")
        return BagDataset(
            self.store,
            self.arrays,
            bags=rows["slide_ids"].tolist(),
            targets=as_targets(self.targets[places]),
            covariates=self.covariates[places] if self.covariate_specs else None,
            indices=places,
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

    def _evaluation_loader(self, part: str | None) -> DataLoader[Any]:
        return self._loader(part)

    def _loader(self, part: str | None, *, shuffle: bool = False) -> DataLoader[Bag]:
        dataset = self._dataset(part, self.max_patches if shuffle else None)
        rank, world_size = self._rank_of(len(dataset), part)
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

    def _rank_of(self, n: int, part: str | None) -> tuple[int, int]:
        """This process among those that share ``n`` bags of a part."""
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        if not n:
            held = ", ".join(f"{name} {k}" for name, k in Counter(self.bags["part"]).items())
            raise SplitError(f"the {part} part has no {self.bag} ({held or 'nothing'})")
        if n < world_size:
            raise ConfigError(
                f"{n} {part or 'cohort'} bags cannot be shared out to {world_size} devices: use "
                "fewer devices"
            )
        return rank, world_size

    def _order_seed(self) -> int:
        """The run's seed, which must be the same on all ranks: they share one order."""
        if self._seed is None:
            seed = torch.initial_seed() % 2**31
            trainer = self.trainer
            self._seed = seed if trainer is None else int(trainer.strategy.broadcast(seed))
        return self._seed
