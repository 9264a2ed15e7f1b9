"""Predictions as a table, metrics as a file, attention beside the features."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.errors import ConfigError, StoreReadOnlyError
from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.records.files import sha256_of, write_text
from histotransfer_pl.records.tables import write_table
from histotransfer_pl.runs.evaluation import describe_metrics, evaluate_table, metrics_json
from histotransfer_pl.runs.predictions import PredictionTable, as_table
from histotransfer_pl.store.attention import ATTENTION_COLUMNS, PATCH_COLUMN
from histotransfer_pl.store.joined import store_of
from histotransfer_pl.store.layout import attention_path
from histotransfer_pl.tasks.metrics import from_all_ranks
from histotransfer_pl.tasks.slide_model import feature_data, slide_model

_log = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """Writes what ``test`` and ``predict`` found into the run folder.

    ``test`` writes ``test_predictions.csv``, ``test_metrics.json`` and, for classes,
    ``test_confusion.csv`` (slides; rows are labels, columns predictions). ``predict`` writes
    ``predictions.csv`` for every slide (its column ``part`` says which slides were trained on) and
    the attention of every patch into the store, in ``attention/<id of the run>``: (N, 2), the
    softmax weight and the logit, row by row as the coordinates. What this checkpoint said of a
    slide already is not written again; where the store cannot be written, attention is left out.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._attention = True

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_part(trainer.limit_test_batches, "test")
        self._rows = []
        self._facts = attention_facts(trainer)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_part(trainer.limit_predict_batches, "predict")
        trainer.predict_loop.return_predictions = False
        self._rows = []
        self._facts = attention_facts(trainer)
        self._attention = True

    @override
    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        self._collect(pl_module, outputs)

    @override
    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        data = feature_data(pl_module)
        self._collect(pl_module, outputs)
        if not self._attention:
            return
        try:
            names = slide_model(pl_module).outcome.output_names
            write_attention(data, outputs, names, self._facts)
        except StoreReadOnlyError as error:
            self._attention = False
            _log.warning("attention is left out: %s", error)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        table = self._table(trainer)
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            write_table(folder / "test_predictions.csv", table)
            outcome = slide_model(pl_module).outcome
            if "predicted" in table and "label" in table:
                confusion = confusion_table(table, outcome.spec.classes)
                write_table(folder / "test_confusion.csv", confusion, index=True)
            self._write_metrics(trainer, folder, as_table(table, outcome.spec))

    def _write_metrics(self, trainer: Trainer, folder: Path, table: PredictionTable) -> None:
        """Each metric with its interval over patients: on the screen as in the file."""
        results = evaluate_table(table)
        metrics = metrics_json(results, table)
        for name, value in trainer.callback_metrics.items():
            if name.startswith("test/"):
                metrics.setdefault(name.removeprefix("test/"), float(value))
        metrics["run"] = self._facts["run"]
        write_text(folder / "test_metrics.json", json.dumps(metrics, indent=2) + "\n")
        sys.stdout.write(describe_metrics(results, table) + "\n")

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        table = self._table(trainer)
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "predictions.csv"
            write_table(path, table)

    def _collect(self, module: LightningModule, outputs: dict[str, Tensor]) -> None:
        data, outcome = feature_data(module), slide_model(module).outcome
        self._rows += prediction_rows(data, outcome, outputs["indices"], outputs["scores"])

    def _table(self, trainer: Trainer) -> pd.DataFrame:
        shares = from_all_ranks(trainer, self._rows)
        table = pd.DataFrame([row for share in shares for row in share])
        return table.sort_values(table.columns[0], ignore_index=True)


def refuse_part(limit: float, word: str) -> None:
    """Tables of a part of the slides would take the place of those of all.

    Args:
        limit: Batches or share of them that the trainer goes through; ``fast_dev_run`` sets it.
        word: The verb.

    Raises:
        ConfigError: It is not all.
    """
    if isinstance(limit, int) or limit != 1:
        raise ConfigError(
            f"trainer.fast_dev_run or limit_{word}_batches lets {word} see {limit} batches: its "
            "tables would lack the other slides, so leave both as they are"
        )


def prediction_rows(
    data: FeatureDataModule, outcome: Outcome, indices: Tensor, scores: Tensor
) -> list[dict[str, Any]]:
    """Rows of the table: slide (or patient), part, true target, prediction.

    Args:
        data: What was read.
        outcome: What is predicted.
        indices: (S,) places in the datamodule's list.
        scores: (S,) or (S, K) of the outcome.
    """
    truth = outcome.truth(outcome.spec.classes)
    rows = []
    for index, row in zip(indices.tolist(), outcome.to_columns(scores.cpu().numpy()), strict=True):
        bag = data.bags.loc[index]
        name = {"slide_id": bag["bag_id"]} if data.bag == "slide" else {}
        more = {key: bag[key] for key in ("site",) if key in bag}
        known = {key: bag[key] for key in truth}
        who = {**name, "patient_id": bag["patient_id"], "part": bag["part"]}
        rows.append({**who, **more, **known, **outcome.cells(row)})
    return rows


def confusion_table(predictions: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Confusion matrix in slides (C, C): rows are the labels, columns what was predicted."""
    table = pd.crosstab(predictions["label"], predictions["predicted"])
    return table.reindex(index=list(classes), columns=list(classes), fill_value=0)


def write_attention(
    data: FeatureDataModule,
    outputs: dict[str, Tensor],
    names: Sequence[str],
    attributes: dict[str, Any],
) -> None:
    """Write the attention of each slide of the bags beside its features; means have none.

    Args:
        data: What was read.
        outputs: What ``predict_step`` gave.
        names: What the patch logits are about.
        attributes: Facts that stand beside the attention.
    """
    if data.means:
        return
    columns = torch.stack([outputs["attention"], outputs["attention_logits"]], dim=1)  # (sum N, 2)
    if "patch_logits" in outputs:
        columns = torch.cat([columns, outputs["patch_logits"]], dim=1)  # (sum N, 2 + C)
        patch_columns = [PATCH_COLUMN.format(name) for name in names]
        attributes = {**attributes, "columns": [*ATTENTION_COLUMNS, *patch_columns]}
    parts = torch.split(columns.float().cpu(), outputs["lengths"].tolist())
    run = str(attributes["run"])
    for index, values in zip(outputs["indices"].tolist(), parts, strict=True):
        slides = [data.store.slide(slide_id) for slide_id in data.bags.loc[index, "slide_ids"]]
        shares = torch.split(values, [slide.n_patches for slide in slides])
        for slide, share in zip(slides, shares, strict=True):
            if not slide.has(attention_path(run)):  # the same checkpoint says the same
                store = store_of(data.store, slide.slide_id)
                store.write_attention(run, slide.slide_id, share.numpy(), attributes)


def attention_facts(trainer: Trainer) -> dict[str, Any]:
    """What belongs to the attention of a run: its id, the hash of the checkpoint."""
    run = "" if trainer.ckpt_path is None else sha256_of(Path(str(trainer.ckpt_path)))
    return {
        "run": run,
        "run_dir": str(trainer.default_root_dir),
        "columns": list(ATTENTION_COLUMNS),
    }
