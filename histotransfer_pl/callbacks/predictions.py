"""Predictions as a table, metrics as a file, attention beside the features."""

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from histotransfer_pl.data.bags import BagBatch
from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.records.files import write_text
from histotransfer_pl.runs.attention import ATTENTION_COLUMNS, PATCH_COLUMN
from histotransfer_pl.store.layout import attention_path
from histotransfer_pl.tasks.mil import feature_data


class PredictionWriter(Callback):
    """Writes what ``test`` and ``predict`` found into the run folder.

    ``test`` writes ``test_predictions.csv``, ``test_confusion.csv`` (slides; rows are labels,
    columns predictions) and ``test_metrics.json``. ``predict`` writes ``predictions.csv`` for
    every slide of the cohort (its column ``part`` says which slides were trained on) and the
    attention of every patch into the store, in ``attention/<run>``: (N, 2), the softmax weight
    and the logit, row by row as the coordinates.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._lock = ExitStack()

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows = []

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.predict_loop.return_predictions = False
        self._rows = []
        self._facts = attention_facts(trainer, feature_data(pl_module))
        store = feature_data(pl_module).store
        if trainer.is_global_zero:
            self._lock.enter_context(store.writing())
        trainer.strategy.barrier("store locked")
        if not trainer.is_global_zero:
            self._lock.enter_context(store.writing(lock=False))

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: BagBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._collect(feature_data(pl_module), outputs)

    @override
    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: BagBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        data = feature_data(pl_module)
        self._collect(data, outputs)
        write_attention(data, outputs, self._facts)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        table = self._table(trainer)
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            write_text(folder / "test_predictions.csv", table.to_csv(index=False))
            confusion = confusion_table(table, feature_data(pl_module).classes)
            write_text(folder / "test_confusion.csv", confusion.to_csv())
            metrics = {
                name.removeprefix("test/"): float(value)
                for name, value in trainer.callback_metrics.items()
                if name.startswith("test/")
            }
            write_text(folder / "test_metrics.json", json.dumps(metrics, indent=2) + "\n")

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        table = self._table(trainer)
        self._lock.close()
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "predictions.csv"
            write_text(path, table.to_csv(index=False))

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._lock.close()

    def _collect(self, data: FeatureDataModule, outputs: dict[str, Tensor]) -> None:
        probabilities = outputs["probabilities"].cpu().numpy()  # (S, C)
        for index, chances in zip(outputs["indices"].tolist(), probabilities, strict=True):
            self._rows.append(prediction_row(data, index, chances))

    def _table(self, trainer: Trainer) -> pd.DataFrame:
        shares = [self._rows]
        if trainer.world_size > 1:
            shares = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(shares, self._rows)
        table = pd.DataFrame([row for share in shares for row in share])
        return table.sort_values(table.columns[0], ignore_index=True)


def prediction_row(
    data: FeatureDataModule, index: int, probabilities: np.ndarray
) -> dict[str, Any]:
    """A row of the table: slide (or patient), part, label, prediction, one probability a class."""
    bag = data.bags.loc[index]
    name = {"slide_id": bag["bag_id"]} if data.bag == "slide" else {}
    return {
        **name,
        "patient_id": bag["patient_id"],
        "part": bag["part"],
        "label": bag["label"],
        "predicted": data.classes[int(probabilities.argmax())],
        **{f"p_{c}": float(p) for c, p in zip(data.classes, probabilities, strict=True)},
    }


def confusion_table(predictions: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Confusion matrix in slides (C, C): rows are the labels, columns what was predicted."""
    table = pd.crosstab(predictions["label"], predictions["predicted"])
    return table.reindex(index=classes, columns=classes, fill_value=0)


def write_attention(
    data: FeatureDataModule, outputs: dict[str, Tensor], attributes: dict[str, Any]
) -> None:
    """Write the attention of each slide of the bags beside its features."""
    columns = torch.stack([outputs["attention"], outputs["attention_logits"]], dim=1)  # (sum N, 2)
    if "patch_logits" in outputs:
        columns = torch.cat([columns, outputs["patch_logits"]], dim=1)  # (sum N, 2 + C)
        patch_columns = [PATCH_COLUMN.format(name) for name in data.classes]
        attributes = {**attributes, "columns": [*ATTENTION_COLUMNS, *patch_columns]}
    parts = torch.split(columns.float().cpu(), outputs["lengths"].tolist())
    for index, values in zip(outputs["indices"].tolist(), parts, strict=True):
        slides = [data.store.slide(slide_id) for slide_id in data.bags.loc[index, "slide_ids"]]
        shares = torch.split(values, [slide.n_patches for slide in slides])
        for slide, share in zip(slides, shares, strict=True):
            array = attention_path(str(attributes["run"]))
            slide.write(array, share.numpy(), attributes, overwrite=True)


def attention_facts(trainer: Trainer, data: FeatureDataModule) -> dict[str, Any]:
    """What belongs to the attention of a run: its name and the very checkpoint it came from."""
    facts = {"run": run_name(trainer), "columns": list(ATTENTION_COLUMNS), **data.provenance}
    if trainer.ckpt_path is not None:
        with Path(str(trainer.ckpt_path)).open("rb") as file:
            facts["checkpoint_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return facts


def run_name(trainer: Trainer) -> str:
    """Name of the run in the store: its folder as the user gave it."""
    return str(Path(trainer.default_root_dir))
