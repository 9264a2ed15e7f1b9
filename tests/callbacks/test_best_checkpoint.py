"""Which epoch is kept, and when training ends."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from histotransfer_pl.callbacks.best_checkpoint import BestCheckpoint, first_epoch_warning


class Scripted(LightningModule):
    """Logs one given value each epoch."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = values
        self.weight = torch.nn.Parameter(torch.zeros(()))

    @override
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.weight * batch[0].sum()

    @override
    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        value = torch.tensor(self.values[self.current_epoch])
        self.log("val/accuracy", value, batch_size=1)

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def kept_epoch(
    folder: Path, values: list[float], mode: Literal["min", "max"], **settings: Any
) -> int:
    best = BestCheckpoint(
        dirpath=folder, filename="best", monitor="val/accuracy", mode=mode,
        enable_version_counter=False, **settings,
    )  # fmt: skip
    trainer = Trainer(
        max_epochs=len(values), callbacks=[best], logger=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0,
    )  # fmt: skip
    batches = DataLoader(TensorDataset(torch.ones(1)))
    trainer.fit(Scripted(values), batches, batches)
    assert [path.name for path in folder.iterdir()] == ["best.ckpt"]
    return int(torch.load(folder / "best.ckpt", weights_only=True)["epoch"])


@pytest.mark.filterwarnings(
    # One batch of one number needs no workers.
    "ignore:.*does not have many workers",
    "ignore:The number of training batches",
)
@pytest.mark.parametrize(
    ("values", "mode", "settings", "epoch"),
    [
        ([0.5, 0.7, 0.7, 0.6], "max", {}, 1),
        ([0.5, 0.7, 0.7, 0.6], "max", {"ties": "earliest"}, 1),
        ([0.5, 0.7, 0.7, 0.6], "max", {"ties": "latest"}, 2),
        ([0.7, 0.7, 0.7], "max", {"ties": "latest"}, 2),
        ([0.7, 0.6, 0.7, 0.6], "min", {"ties": "latest"}, 3),
        ([0.7, float("nan"), 0.5], "max", {"ties": "latest"}, 0),
    ],
)
def test_the_latest_of_equally_good_epochs_is_kept_where_asked_for(
    tmp_path: Path,
    values: list[float],
    mode: Literal["min", "max"],
    settings: dict[str, Any],
    epoch: int,
) -> None:
    assert kept_epoch(tmp_path, values, mode, **settings) == epoch


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("val/loss", "min"), ("val/brier", "min"), ("val/auroc", "max"), ("val/accuracy", "max")],
)
def test_the_metric_says_whether_less_is_better(monitor: str, mode: str) -> None:
    assert BestCheckpoint(monitor=monitor).mode == mode
    assert BestCheckpoint(monitor=monitor, mode="max").mode == "max"


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:The number of training batches"
)
@pytest.mark.parametrize(
    ("patience", "epochs"),
    [(2, 4), (None, 6)],  # epoch 1 is the best one, and two without a better one follow
)
def test_training_ends_when_no_better_epoch_comes(
    tmp_path: Path, patience: int | None, epochs: int
) -> None:
    best = BestCheckpoint(dirpath=tmp_path, monitor="val/accuracy", patience=patience)
    trainer = Trainer(
        max_epochs=6, callbacks=[best, *best.early_end([])], logger=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    batches = DataLoader(TensorDataset(torch.ones(1)))
    trainer.fit(Scripted([0.5, 0.7, 0.6, float("nan"), 0.8, 0.9]), batches, batches)
    assert trainer.current_epoch == epochs


def test_an_early_end_of_the_users_own_is_the_only_one() -> None:
    best = BestCheckpoint(monitor="val/loss", patience=3)
    assert best.early_end([EarlyStopping("val/loss")]) == []


LOSS_GROWS = [(0.69, 0.55), (0.8, 0.6), (1.1, 0.7), (1.4, 0.68)]


def test_a_first_epoch_is_doubted_when_the_other_metric_rises_later() -> None:
    said = first_epoch_warning(LOSS_GROWS, "val/loss", "min", "val/auroc")

    assert said is not None
    assert "first of 4 epochs" in said
    assert "val/auroc went from 0.550 to 0.700 by epoch 3" in said
    falls = [(0.9, 0.7), (0.8, 0.5), (0.8, 0.6)]
    assert first_epoch_warning(falls, "val/auroc", "max", "val/loss") is not None


@pytest.mark.parametrize(
    ("seen", "mode"),
    [
        (LOSS_GROWS[:2], "min"),  # too short to tell
        ([(0.69, 0.55), (0.6, 0.7), (0.7, 0.8)], "min"),  # the second is kept
        ([(0.5, 0.80), (0.6, 0.82), (0.7, 0.84)], "min"),  # hardly a rise
        ([(float("nan"), float("nan"))] * 3, "min"),
    ],
)
def test_no_word_where_there_is_no_doubt(seen: list[tuple[float, float]], mode: str) -> None:
    assert first_epoch_warning(seen, "val/loss", mode, "val/auroc") is None


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:The number of training batches"
)
def test_the_doubt_is_logged_at_the_end_of_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Growing(Scripted):
        @override
        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            loss = torch.tensor(1.0 - 0.1 * self.current_epoch)
            self.log("val/loss", loss, batch_size=1)

    best = BestCheckpoint(
        dirpath=tmp_path, filename="best", monitor="val/accuracy", mode="max",
        enable_version_counter=False,
    )  # fmt: skip
    trainer = Trainer(
        max_epochs=4, callbacks=[best], logger=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0,
    )  # fmt: skip
    batches = DataLoader(TensorDataset(torch.ones(1)))
    with caplog.at_level("WARNING", logger="histotransfer_pl"):
        trainer.fit(Growing([0.9, 0.8, 0.7, 0.6]), batches, batches)
    assert "val/loss went from 1.000 to 0.700 by epoch 4" in caplog.text
