"""Each outcome learns, by its own loss and a linear head, what its own metrics then measure."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from histotransfer_pl.analysis.metrics import evaluate
from histotransfer_pl.analysis.predictions import Predictions
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.outcomes.kinds import outcome_of, outcome_to_train
from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.records.run import TargetSpec, TaskKind

S = 200
RNG = np.random.default_rng(0)
FEATURES = torch.tensor(RNG.normal(size=(S, 6)), dtype=torch.float32)
LATENT = FEATURES[:, :3].numpy().astype(np.float64) + 0.3 * RNG.normal(size=(S, 3))
EVENT, CENSORED = RNG.exponential(np.exp(-2 * LATENT[:, 0])), RNG.exponential(2.0, S)
SURVIVAL = torch.tensor(np.stack([np.minimum(EVENT, CENSORED), EVENT <= CENSORED], 1))
MISSING = np.where(RNG.random((S, 3)) < 0.2, np.nan, LATENT > 0)
VALUES = torch.tensor(50 + 9 * LATENT[:, 0])
ORDER = torch.tensor(np.digitize(LATENT[:, 0], [-0.5, 0.5]))


def made(
    task: TaskKind, targets: Tensor, classes: tuple[str, ...] = (), loss: str = "default"
) -> tuple[Outcome, Tensor]:
    spec = TargetSpec("target", classes, task=task)
    return outcome_to_train(spec, loss, targets.numpy()), targets


CASES: list[tuple[tuple[Outcome, Tensor], float]] = [
    (made("classification", torch.tensor(LATENT[:, 0] > 0).long(), ("a", "b")), 0.9),
    (made("ordinal", ORDER, ("a", "b", "c")), 0.6),
    (made("multilabel", torch.tensor(MISSING), ("x", "y", "z")), 0.9),
    (made("regression", VALUES), 0.8),
    (made("regression", VALUES, loss="huber"), 0.8),
    (made("survival", SURVIVAL), 0.75),
    (made("survival", SURVIVAL, loss="hazard"), 0.75),
]
EACH = pytest.mark.parametrize(
    ("outcome", "targets", "least"), [(*pair, least) for pair, least in CASES]
)


def loss_of(outcome: Outcome, outputs: Tensor, targets: Tensor) -> Tensor:
    weights = torch.from_numpy(outcome.weights("none", targets.numpy()))
    return outcome.losses(outputs, targets, weights)


def fitted(outcome: Outcome, targets: Tensor, train: Tensor) -> torch.nn.Linear:
    torch.manual_seed(0)
    head = torch.nn.Linear(6, outcome.n_outputs)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        loss_of(outcome, head(FEATURES[train]), targets[train]).mean().backward()
        optimizer.step()
    return head


def watched(outcome: Outcome, scores: Tensor, targets: Tensor) -> float:
    ids = np.arange(len(scores)).astype(str)
    found = Predictions(ids, ids, targets.numpy(), scores.numpy(), task=outcome.task)
    return float(evaluate(next(iter(outcome.metrics().values())), found)[0])


@EACH
def test_it_learns_the_truth_and_nothing_from_shuffled_targets(
    outcome: Outcome, targets: Tensor, least: float
) -> None:
    train, test = torch.arange(100), torch.arange(100, S)
    shuffled = targets[torch.randperm(S, generator=torch.Generator().manual_seed(0))]
    found = []
    for learnt in (targets, shuffled):
        head = fitted(outcome, learnt, train)
        with torch.inference_mode():
            found.append(watched(outcome, outcome.scores(head(FEATURES[test])), learnt[test]))
    assert found[0] > least
    assert found[1] < least - 0.1


@EACH
def test_scores_have_their_columns_and_every_metric_a_value(
    outcome: Outcome, targets: Tensor, least: float
) -> None:
    outputs = torch.randn(S, outcome.n_outputs, generator=torch.Generator().manual_seed(1))
    scores = outcome.scores(outputs)
    assert scores.reshape(S, -1).shape[1] == len(outcome.columns)
    nobody = outcome.scores(outputs[:0]).numpy()  # a batch that completes no bag
    assert outcome.to_columns(nobody).shape == (0, len(outcome.columns))
    assert loss_of(outcome, outputs, targets).shape == (S,)
    ids = np.arange(S).astype(str)
    found = Predictions(ids, ids, targets.numpy(), scores.numpy(), task=outcome.task)
    for name, metric in outcome.metrics().items():
        assert np.isfinite(evaluate(metric, found)).all(), name


@EACH
def test_it_is_made_again_from_its_record(outcome: Outcome, targets: Tensor, least: float) -> None:
    again = outcome_of(TargetSpec.from_json(outcome.spec.to_json()))
    assert again == outcome
    assert type(again) is type(outcome)
    outputs = torch.randn(S, outcome.n_outputs, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(again.scores(outputs), outcome.scores(outputs), rtol=0, atol=0)


@EACH
def test_the_watched_metric_comes_first_and_titles_are_metrics(
    outcome: Outcome, targets: Tensor, least: float
) -> None:
    assert next(iter(outcome.metrics())) == next(iter(outcome.titles)) == outcome.watched
    assert set(outcome.titles) <= set(outcome.metrics())


def test_a_task_knows_its_own_losses_only() -> None:
    with pytest.raises(ConfigError, match="model.loss is cox, but the task regression knows mse"):
        made("regression", VALUES, loss="cox")
    with pytest.raises(ConfigError, match="the task ordinal knows no other than default"):
        made("ordinal", ORDER, ("a", "b", "c"), loss="mse")


def test_classes_and_labels_are_weighed_and_nothing_else() -> None:
    labels, _ = made("multilabel", torch.tensor(MISSING), ("x", "y", "z"))
    few = MISSING.copy()
    few[: S // 2, 0] = np.nan
    balanced = labels.weights("balanced", few)
    known = np.isfinite(few).sum(0)
    np.testing.assert_allclose(balanced * known, np.full(3, known.mean()), rtol=1e-6)
    with pytest.raises(ConfigError, match="has 2 numbers for 3 labels: x, y, z"):
        labels.weights([1.0, 2.0], few)
    value, _ = made("regression", VALUES)
    with pytest.raises(ConfigError, match="class_weights is balanced, but target is no class"):
        value.weights("balanced", VALUES.numpy())


def test_a_value_is_told_in_its_own_unit() -> None:
    outcome = outcome_of(TargetSpec("x", task="regression", loss="mse", scale=(50, 9)))
    assert outcome.scores(torch.tensor([[0.0], [1.0]])).tolist() == [50, 59]
    assert loss_of(outcome, torch.tensor([[1.0]]), torch.tensor([59.0])).tolist() == [0]


def test_an_event_at_the_end_of_an_interval_belongs_to_it() -> None:
    outcome = outcome_of(TargetSpec("x", task="survival", loss="hazard", times=(1.0, 2.0)))
    sure = torch.tensor([[9.0, -9.0, -9.0]])  # stops in the first interval
    first, second = (
        float(loss_of(outcome, sure, torch.tensor([[time, 1.0]]))[0]) for time in (1.0, 1.5)
    )
    assert first < 0.01 < 10 < second


@pytest.mark.parametrize(
    ("spec", "row", "words"),
    [
        (TargetSpec("label", ("a", "b")), {"label": "b"}, "label b"),
        (TargetSpec("score", task="regression"), {"value": 3.0}, "score 3"),
        (
            TargetSpec("er, pr, her2", ("er", "pr", "her2"), task="multilabel"),
            {"label_er": 1.0, "label_pr": 0.0, "label_her2": np.nan},
            "er yes, pr no, her2 not known",
        ),
        (
            TargetSpec("months, died", task="survival", loss="cox", times=(1.0,)),
            {"time": 12.5, "event": 1.0},
            "months 12.5, died yes",
        ),
    ],
)
def test_what_is_known_of_a_slide_is_said_in_words(
    spec: TargetSpec, row: dict[str, object], words: str
) -> None:
    assert outcome_of(spec).truth_in_words(pd.Series(row)) == words
