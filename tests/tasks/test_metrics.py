"""The metrics that a run logs: those of the analysis, held against torchmetrics."""

import math

import pytest
import torch
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_f1_score,
    multiclass_accuracy,
    multiclass_auroc,
    multiclass_average_precision,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from histotransfer_pl.outcomes.kinds import outcome_of
from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.records.run import TargetSpec
from histotransfer_pl.tasks.metrics import SlidePredictions, slide_metrics

S = 80


def classes(c: int) -> Outcome:
    return outcome_of(TargetSpec("label", tuple("abc"[:c])))


def cohort(n_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n_classes)
    labels = torch.randint(0, n_classes, (S,), generator=generator)
    logits = torch.randn(S, n_classes, generator=generator) + torch.eye(n_classes)[labels]
    return (logits * 4).round().div(4).softmax(-1), labels


@pytest.mark.parametrize("c", [2, 3])
def test_what_a_run_logs_is_what_torchmetrics_gives(c: int) -> None:
    scores, labels = cohort(c)
    # the softmax of logarithms of probabilities is these probabilities
    found, decided = slide_metrics(classes(c), scores.log(), labels), scores.argmax(1)
    expected = {
        "accuracy": multiclass_accuracy(decided, labels, c, average="micro"),
        "balanced_accuracy": multiclass_accuracy(decided, labels, c, average="macro"),
        "ece": multiclass_calibration_error(scores, labels, c, n_bins=15),
        "brier": (scores - torch.eye(c)[labels]).square().sum(1).mean() / 2,
    }
    if c == 2:
        expected["auroc"] = binary_auroc(scores[:, 1], labels)
        expected["auprc"] = binary_average_precision(scores[:, 1], labels)
        expected["f1"] = binary_f1_score(decided, labels)
    else:
        expected["auroc"] = multiclass_auroc(scores, labels, c)
        expected["auprc"] = multiclass_average_precision(scores, labels, c)
        expected["f1"] = multiclass_f1_score(decided, labels, c, average="macro")
    # torchmetrics adds in single precision
    assert found == pytest.approx({k: v.item() for k, v in expected.items()}, abs=1e-6)


def test_one_class_defines_no_auroc() -> None:
    scores, _ = cohort(2)
    found = slide_metrics(classes(2), scores.log(), torch.zeros(S, dtype=torch.long))
    assert math.isnan(found["auroc"])
    assert 0 <= found["accuracy"] <= 1


def test_predictions_come_back_in_the_order_of_the_slides() -> None:
    scores, labels = cohort(2)
    collected = SlidePredictions()
    for rows in (torch.arange(50, S), torch.arange(50)):
        collected.update(scores[rows], labels[rows], rows)
    found = collected.compute()
    torch.testing.assert_close(found.outputs, scores)
    torch.testing.assert_close(found.targets, labels)
    assert found.indices.tolist() == list(range(S))
