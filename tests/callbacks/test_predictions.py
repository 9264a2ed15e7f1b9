"""Tables and attention: every number stands in the row of its own slide and patch."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from histotransfer_pl.callbacks import predictions
from histotransfer_pl.callbacks.predictions import (
    PredictionWriter,
    confusion_table,
    prediction_rows,
    write_attention,
)
from histotransfer_pl.errors import StoreReadOnlyError
from histotransfer_pl.outcomes.kinds import outcome_of
from histotransfer_pl.records.run import TargetSpec
from histotransfer_pl.store.feature_store import FeatureStore

OUTCOME = outcome_of(TargetSpec("label", ("no", "yes"), "yes"))
LENGTHS = {"a": 2, "b": 3, "c": 4}
FACTS = {"run": "f" * 64, "run_dir": "r", "columns": ["attention", "attention_logit"]}


@pytest.fixture
def data(tmp_path: Path) -> Any:
    """Two patients' bags over three slides: b and a are one, c the other."""
    store = FeatureStore.open_or_create(tmp_path / "s.zarr", None)
    with store.writing():
        for name, n in LENGTHS.items():
            store.add_slide(name, None, n)
    bags = pd.DataFrame(
        {
            "bag_id": ["p1", "p2"],
            "patient_id": ["p1", "p2"],
            "part": ["train", "test"],
            "label": ["no", "yes"],
            "slide_ids": [["b", "a"], ["c"]],
        },
        index=[7, 9],
    )
    return SimpleNamespace(store=store, bags=bags, bag="patient", means=False)


def outputs(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    weights = torch.arange(9.0)
    return {
        "indices": torch.tensor([9, 7]),
        "lengths": torch.tensor([4, 5]),
        "attention": weights,
        "attention_logits": -weights,
        "scores": torch.tensor([[0.2, 0.8], [0.6, 0.4]], dtype=torch.float64),
        **more,
    }


def test_attention_of_a_patient_is_shared_out_to_its_slides_in_their_order(data: Any) -> None:
    write_attention(data, outputs(), OUTCOME.output_names, FACTS)
    found = {name: data.store.read_attention(FACTS["run"], name)[:, 0].tolist() for name in LENGTHS}
    assert found == {"c": [0, 1, 2, 3], "b": [4, 5, 6], "a": [7, 8]}
    np.testing.assert_array_equal(
        data.store.read_attention(FACTS["run"], "a"), [[7.0, -7.0], [8.0, -8.0]]
    )


def test_logits_of_patches_get_a_column_per_class(data: Any) -> None:
    logits = torch.stack([torch.arange(9.0), torch.arange(9.0) + 100], 1)  # (sum N, C)
    write_attention(data, outputs(patch_logits=logits), OUTCOME.output_names, FACTS)
    np.testing.assert_array_equal(
        data.store.read_attention(FACTS["run"], "a"), [[7, -7, 7, 107], [8, -8, 8, 108]]
    )
    (path,) = [array for array in data.store.slide("a").arrays() if array.startswith("attention")]
    columns = data.store.slide("a").info(path).attributes["columns"]
    assert len(columns) == 4
    assert [name.rsplit("_", 1)[-1] for name in columns[2:]] == ["no", "yes"]


def test_what_the_same_checkpoint_said_is_not_written_again(data: Any) -> None:
    write_attention(data, outputs(), OUTCOME.output_names, FACTS)
    zeros = outputs(attention=torch.zeros(9))
    write_attention(data, zeros, OUTCOME.output_names, FACTS)
    assert data.store.read_attention(FACTS["run"], "a")[:, 0].tolist() == [7, 8]


def test_a_row_names_what_was_predicted(data: Any) -> None:
    scores = torch.tensor([[0.2, 0.8]], dtype=torch.float64)
    (row,) = prediction_rows(data, OUTCOME, torch.tensor([9]), scores)
    assert row == {
        **{"patient_id": "p2", "part": "test", "label": "yes", "predicted": "yes"},
        **{"p_no": 0.2, "p_yes": 0.8},
    }
    data.bag = "slide"
    assert next(iter(prediction_rows(data, OUTCOME, torch.tensor([9]), scores)[0].items())) == (
        "slide_id",
        "p2",
    )


def test_confusion_has_every_class_and_labels_in_rows() -> None:
    table = pd.DataFrame({"label": ["b", "b", "a"], "predicted": ["a", "b", "a"]})
    assert confusion_table(table, ["a", "b", "c"]).to_numpy().tolist() == [
        [1, 0, 0],
        [1, 1, 0],
        [0, 0, 0],
    ]


def test_a_store_that_cannot_be_written_costs_one_line_and_no_prediction(
    data: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    tried: list[int] = []

    def refuse(*_: object) -> None:
        tried.append(1)
        raise StoreReadOnlyError("s.zarr can only be read")

    monkeypatch.setattr(predictions, "write_attention", refuse)
    monkeypatch.setattr(predictions, "feature_data", lambda module: data)
    model = SimpleNamespace(outcome=OUTCOME)
    monkeypatch.setattr(predictions, "slide_model", lambda module: model)
    trainer: Any = SimpleNamespace(
        predict_loop=SimpleNamespace(return_predictions=True),
        limit_predict_batches=1.0,
        **{"ckpt_path": None, "default_root_dir": tmp_path, "world_size": 1},
        is_global_zero=True,
    )
    writer, module, batch = PredictionWriter(), Any, Any
    writer.on_predict_start(trainer, module)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "histotransfer_pl"):
        for number in range(2):
            writer.on_predict_batch_end(trainer, module, outputs(), batch, number)  # type: ignore[arg-type]
    writer.on_predict_end(trainer, module)  # type: ignore[arg-type]
    assert [r.getMessage() for r in caplog.records] == [
        "attention is left out: s.zarr can only be read"
    ]
    assert tried == [1]
    assert not trainer.predict_loop.return_predictions
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert table["patient_id"].tolist() == ["p1", "p1", "p2", "p2"]
