"""The report on dashboards: one run with the same figures and tables."""

import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import wandb
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from histotransfer_pl.callbacks.board import Board, as_board, make_board
from histotransfer_pl.callbacks.media import CaptionedImage, Media

TISSUE = "slides/"
"""The names of pictures of slides begin so."""
_log = logging.getLogger(__name__)


def report_boards(names: Sequence[str], folder: Path, study: str) -> list[Board]:
    """The boards of these names; one that cannot be made costs one line.

    Args:
        names: Of ``wandb``, ``tensorboard`` and ``mlflow``.
        folder: Folder of the report, which gets what stays on this machine. MLflow writes where
            ``MLFLOW_TRACKING_URI`` says, if it is set.
        study: Name of the study.
    """
    server = os.environ.get("MLFLOW_TRACKING_URI", f"file:{folder.resolve() / 'mlruns'}")
    makers: dict[str, Callable[[], Board | None]] = {
        "wandb": lambda: make_board(folder, "report", name=f"{study}-report", group=study),
        "tensorboard": lambda: as_board(
            TensorBoardLogger(folder, "tensorboard", version="report", default_hp_metric=False)
        ),
        "mlflow": lambda: as_board(MLFlowLogger(study, run_name="report", tracking_uri=server)),
    }
    boards: list[Board] = []
    for name in names:
        try:
            board = makers[name]()
        except ModuleNotFoundError as error:
            need = f'pip install "histotransfer_pl[{name}]"'
            _log.warning("%s is left out: %s; %s", name, str(error).splitlines()[0], need)
            continue
        boards += [] if board is None else [board]
    return boards


def log_report(
    boards: Sequence[Board],
    figures: Mapping[str, tuple[bytes, str]],
    tables: Mapping[str, pd.DataFrame],
    summary: Mapping[str, Any],
) -> None:
    """Log a report; pictures of slides only where they stay on this machine."""
    media: dict[str, Media] = {key: [_image(*figure)] for key, figure in figures.items()}
    # One column holds numbers and words where a value is missing; W&B wants one type.
    media |= {f"tables/{key}": table.astype(str) for key, table in tables.items()}
    public = {key: item for key, item in media.items() if not key.startswith(TISSUE)}
    for board in boards:
        board.log_media(public if board.online else media)
        if isinstance(board.logger, WandbLogger):
            board.attempt(lambda: wandb.summary.update(dict(summary)))
            board.attempt(wandb.finish)
        else:
            board.log_hyperparams(dict(summary))
            board.finalize("success")


def _image(png: bytes, caption: str) -> CaptionedImage:
    with io.BytesIO(png) as file:
        return CaptionedImage(np.asarray(Image.open(file).convert("RGB")), caption)
