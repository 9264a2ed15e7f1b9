"""Weights & Biases as a guest: a board that fails costs one line, never a run."""

import logging
import netrc
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb
from lightning.pytorch.loggers import WandbLogger
from typing_extensions import override

_log = logging.getLogger(__name__)
_SECONDS = 3.0
_FAILURES = (wandb.Error, OSError, RuntimeError, ValueError)
"""What the client raises when its service, its folder or its host is not there."""


class Board(WandbLogger):
    """A W&B logger that ends with one line where Lightning's own would end the run.

    Attributes:
        online: Whether what is logged leaves the machine.
    """

    def __init__(self, *, online: bool, **kwargs: Any) -> None:
        super().__init__(offline=not online, **kwargs)
        self.online = online
        self.broken = False
        # Lightning 2.6 passes it on, W&B 0.31 warns that it means nothing.
        self._wandb_init.pop("anonymous", None)

    def attempt(self, action: Callable[[], Any]) -> Any:
        """Do something with the board; once that has failed, nothing more is done with it."""
        if self.broken:
            return None
        try:
            return action()
        except _FAILURES as error:
            self.broken = True
            reason = str(error).strip().splitlines() or [type(error).__name__]
            _log.warning("W&B failed and is left out from here on: %s", reason[0])
            return None

    @override
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.attempt(lambda: super(Board, self).log_metrics(metrics, step))

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.attempt(lambda: super(Board, self).log_hyperparams(params))

    @override
    def finalize(self, status: str) -> None:
        self.attempt(lambda: super(Board, self).finalize(status))

    def log_media(self, media: dict[str, Any]) -> None:
        """Log figures and tables."""
        self.attempt(lambda: self.experiment.log(media))


def make_board(
    folder: Path, stage: str, name: str | None = None, group: str | None = None
) -> Board | None:
    """The board of a run: online with a key and a network, else offline; None if it is disabled.

    Args:
        folder: Where its files lie: the folder of the run, or of the report.
        stage: What is run.
        name: Name on the board; by default folder and stage.
        group: What it belongs to; by default the folder.
    """
    mode = os.environ.get("WANDB_MODE", "")
    if mode == "disabled":
        return None
    host = str(wandb.Settings().base_url)
    online = mode != "offline" and has_key(host)
    first_process = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if online and not reachable(host):
        online = False
        if first_process:
            _log.warning("W&B: %s does not answer within %.0f s; going on offline", host, _SECONDS)
    board = Board(
        online=online,
        name=name or f"{folder.name}-{stage}",
        group=group or folder.name,
        job_type=stage,
        project=os.environ.get("WANDB_PROJECT", "histotransfer_pl"),
        save_dir=folder,
        settings=wandb.Settings(silent=True, console="off"),
    )
    board.attempt(lambda: board.experiment)
    if not online and first_process and not board.broken:
        _log.info(f"W&B is offline; to upload later: wandb sync {folder}/wandb/offline-run-*")
    return None if board.broken else board


def has_key(base_url: str) -> bool:
    """Whether W&B could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(str(urlsplit(base_url).hostname)) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def reachable(base_url: str, seconds: float = _SECONDS) -> bool:
    """Whether the host answers; W&B itself would try for minutes."""
    place = urlsplit(base_url)
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        with socket.create_connection((str(place.hostname), port), timeout=seconds):
            return True
    except OSError:
        return False
