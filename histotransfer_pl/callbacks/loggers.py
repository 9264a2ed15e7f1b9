"""Loggers of a run: Weights & Biases, and CSV files beside it."""

import logging
import netrc
import os
from pathlib import Path

import pandas as pd
import wandb
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

_log = logging.getLogger(__name__)
_WANDB_HOST = "api.wandb.ai"


def default_loggers(run_dir: Path, stage: str, epochs_done: int = 0) -> list[Logger]:
    """The loggers of a run that names none.

    W&B is online when the machine has a key, and otherwise offline in the run folder; it never
    asks. Metrics are always written to ``<run_dir>/metrics/<stage>/metrics.csv`` too.

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
    if os.environ.get("WANDB_MODE") == "disabled":
        return [csv]
    offline = os.environ.get("WANDB_MODE") == "offline" or not has_wandb_key()
    board = WandbLogger(
        name=f"{run_dir.name}-{stage}",
        group=run_dir.name,
        job_type=stage,
        project=os.environ.get("WANDB_PROJECT", "histotransfer_pl"),
        save_dir=run_dir,
        offline=offline,
        settings=wandb.Settings(silent=True, console="off"),
    )
    # Lightning 2.6 passes it on, W&B 0.31 warns that it means nothing.
    board._wandb_init.pop("anonymous", None)
    if offline and first_process:
        _log.info(f"W&B is offline; to upload later: wandb sync {run_dir}/wandb/offline-run-*")
    return [board, csv]


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


def has_wandb_key() -> bool:
    """Whether W&B could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(_WANDB_HOST) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
