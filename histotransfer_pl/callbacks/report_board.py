"""The report on Weights & Biases: one summary run with the same figures and tables."""

import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import wandb
from PIL import Image

from histotransfer_pl.callbacks.loggers import has_wandb_key

_log = logging.getLogger(__name__)


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
    if os.environ.get("WANDB_MODE") == "disabled":
        return
    offline = os.environ.get("WANDB_MODE") == "offline" or not has_wandb_key()
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "histotransfer_pl"),
        name=f"{name}-report",
        group=name,
        job_type="report",
        dir=str(folder),
        mode="offline" if offline else "online",
        settings=wandb.Settings(silent=True, console="off"),
    )
    media: dict[str, Any] = {key: _image(*figure) for key, figure in figures.items()}
    # One column holds numbers and words where a value is missing; W&B wants one type.
    media |= {f"tables/{key}": wandb.Table(dataframe=t.astype(str)) for key, t in tables.items()}
    with run:
        run.log(media)
        run.summary.update(dict(summary))
    if offline:
        _log.info(f"W&B is offline; to upload later: wandb sync {folder}/wandb/offline-run-*")


def _image(png: bytes, caption: str) -> wandb.Image:
    with io.BytesIO(png) as file:
        return wandb.Image(Image.open(file).convert("RGB"), caption=caption)
