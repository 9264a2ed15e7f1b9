"""The report on Weights & Biases: one summary run with the same figures and tables."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import wandb
from PIL import Image

from histotransfer_pl.callbacks.board import make_board
from histotransfer_pl.callbacks.media import CaptionedImage, Media


def log_report(
    folder: Path,
    name: str,
    figures: Mapping[str, tuple[bytes, str]],
    tables: Mapping[str, pd.DataFrame],
    summary: Mapping[str, Any],
) -> None:
    """Log a report; offline in its folder when this machine has no key, without a prompt.

    Args:
        folder: Folder of the report.
        name: Name of the study.
        figures: PNG file and caption by name.
        tables: Tables by name.
        summary: Values for the table of runs.
    """
    board = make_board(folder, "report", name=f"{name}-report", group=name)
    if board is None:
        return
    media: dict[str, Media] = {key: [_image(*figure)] for key, figure in figures.items()}
    # One column holds numbers and words where a value is missing; W&B wants one type.
    media |= {f"tables/{key}": table.astype(str) for key, table in tables.items()}
    board.log_media(media)
    board.attempt(lambda: board.experiment.summary.update(dict(summary)))
    board.attempt(wandb.finish)


def _image(png: bytes, caption: str) -> CaptionedImage:
    with io.BytesIO(png) as file:
        return CaptionedImage(np.asarray(Image.open(file).convert("RGB")), caption)
