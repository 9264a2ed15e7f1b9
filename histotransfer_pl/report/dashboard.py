"""The report on Weights & Biases: one summary run with the same figures and tables."""

import io
import logging
import os
from typing import Any

import wandb
from PIL import Image

from histotransfer_pl.callbacks.loggers import has_wandb_key
from histotransfer_pl.report.build import Report
from histotransfer_pl.report.figure import Picture

_log = logging.getLogger(__name__)


def log_report(report: Report) -> None:
    """Log a report; offline in its folder when this machine has no key, without a prompt."""
    if os.environ.get("WANDB_MODE") == "disabled":
        return
    offline = os.environ.get("WANDB_MODE") == "offline" or not has_wandb_key()
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "histotransfer_pl"),
        name=f"{report.page.name}-report",
        group=report.page.name,
        job_type="report",
        dir=str(report.folder),
        mode="offline" if offline else "online",
        settings=wandb.Settings(silent=True, console="off"),
    )
    with run:
        run.log(_media(report))
        run.summary.update(_numbers(report))
    if offline:
        _log.info(
            f"W&B is offline; to upload later: wandb sync {report.folder}/wandb/offline-run-*"
        )


def _media(report: Report) -> dict[str, Any]:
    media: dict[str, Any] = {}
    for picture in report.page.pictures():
        media[f"figures/{picture.name}"] = _image(picture)
    for table in report.page.tables():
        # One column holds numbers and words where a value is missing; W&B wants one type.
        media[f"tables/{table.name}"] = wandb.Table(dataframe=table.page.astype(str))
    for task in report.page.tasks:
        for panel in task.panels:
            if panel.figure is not None:
                media[f"slides/{panel.slide_id}"] = _image(panel.figure)
    return media


def _image(picture: Picture) -> wandb.Image:
    with io.BytesIO(picture.png) as file:
        return wandb.Image(Image.open(file).convert("RGB"), caption=picture.caption)


def _numbers(report: Report) -> dict[str, Any]:
    """The best arm of each task, for the table of runs."""
    numbers: dict[str, Any] = {}
    for task in report.page.tasks:
        prefix = f"{task.title}/" if task.title else ""
        numbers[f"{prefix}best"] = task.summary.headline
        numbers[f"{prefix}best_auroc"] = task.summary.estimate
    return numbers
