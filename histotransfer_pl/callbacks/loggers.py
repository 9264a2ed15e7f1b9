"""Loggers of a run: Weights & Biases or those that one names, and CSV files beside them."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers.logger import DummyLogger

from histotransfer_pl.callbacks.board import Board, as_board, make_board


def default_loggers(run_dir: Path, stage: str, epochs_done: int = 0) -> list[Logger]:
    """The loggers of a run that names none.

    W&B is online when the machine has a key and its host answers, and otherwise offline in the
    run folder; it never asks, and a board that fails costs one line. Metrics are always written
    to ``<run_dir>/metrics/<stage>/metrics.csv`` too.

    Args:
        run_dir: Folder of the run.
        stage: ``fit``, ``validate``, ``test``, ``predict`` or ``extract``.
        epochs_done: Epochs of a fit that is resumed, whose metrics are kept.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    csv = CSVLogger(save_dir=run_dir, name="metrics", version=stage)
    first_process = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if epochs_done and first_process:
        keep_metrics(csv, epochs_done)
    board = make_board(run_dir, stage)
    return [csv] if board is None else [board, csv]


def with_csv(loggers: Sequence[Logger], run_dir: Path, stage: str) -> list[Logger]:
    """Loggers of the user's choice as guests, and the CSV files that are always written."""
    ours = (Board, CSVLogger, DummyLogger)  # Lightning's own for `fast_dev_run` takes anything
    guests: list[Logger] = [
        logger if isinstance(logger, ours) else as_board(logger) for logger in loggers
    ]
    if any(isinstance(logger, CSVLogger) for logger in guests):
        return guests
    return [*guests, CSVLogger(save_dir=run_dir, name="metrics", version=stage)]


def keep_metrics(logger: CSVLogger, epochs: int) -> None:
    """Let a logger go on behind the first epochs of its file, which it would delete.

    Later rows belong to epochs that were not finished and are trained again.
    """
    path = Path(logger.log_dir) / "metrics.csv"
    if not path.is_file():
        return
    table = pd.read_csv(path)
    writer = logger.experiment  # made now: it is this that deletes the file
    table[table["epoch"] < epochs].to_csv(path, index=False)
    writer.metrics_keys = table.columns.tolist()
