"""Loggers as guests: one that fails costs one line, never a run."""

import logging
import netrc
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from typing_extensions import override

from histotransfer_pl.callbacks.media import Media, log_media

_log = logging.getLogger(__name__)
_SECONDS = 3.0
_LOCAL = ("", "file", "sqlite")
"""Schemes of addresses on this machine."""


class Board(Logger):
    """Another logger, left out with one line where its own failure would end the run."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.logger = logger
        self.online = leaves_the_machine(logger)
        self.broken = False

    def attempt(self, action: Callable[[], Any]) -> Any:
        """Do something with the logger; once that has failed, nothing more is done with it."""
        if self.broken:
            return None
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - each client raises what it likes
            self.broken = True
            reason = str(error).strip().splitlines() or [type(error).__name__]
            _log.warning("%s failed and is left out from here on: %s", self.title, reason[0])
            return None

    @property
    def title(self) -> str:
        """What people call the logger."""
        return "W&B" if isinstance(self.logger, WandbLogger) else type(self.logger).__name__

    @property
    @override
    def name(self) -> str | None:
        return self.logger.name

    @property
    @override
    def version(self) -> int | str | None:
        version: int | str | None = self.attempt(lambda: self.logger.version)
        return version

    @property
    @override
    def save_dir(self) -> str | None:
        return self.logger.save_dir

    @property
    def experiment(self) -> Any:
        """The client of the logger."""
        return getattr(self.logger, "experiment", None)

    @override
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.attempt(lambda: self.logger.log_metrics(metrics, step))

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.attempt(lambda: self.logger.log_hyperparams(params, *args, **kwargs))

    @override
    def save(self) -> None:
        self.attempt(self.logger.save)

    @override
    def finalize(self, status: str) -> None:
        self.attempt(lambda: self.logger.finalize(status))

    def log_media(self, media: Mapping[str, Media], step: int = 0) -> None:
        """Log figures, pictures and tables."""
        self.attempt(lambda: log_media(self.logger, media, step))


def as_board(logger: Logger) -> Board:
    """A logger of the user's choice as a guest; one whose host does not answer is left out."""
    board = Board(logger)
    if isinstance(logger, MLFlowLogger) and board.online:
        # Its client would ask seven times, for two minutes each.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        address = str(logger._tracking_uri)
        if urlsplit(address).hostname and not reachable(address):
            board.broken = True
            _log.warning("%s: %s does not answer; it is left out", board.title, address)
    return board


def leaves_the_machine(logger: Logger) -> bool:
    """Whether a logger sends what it gets to another host; True of one that is not known."""
    if isinstance(logger, WandbLogger):
        return not logger._offline
    if isinstance(logger, TensorBoardLogger):
        return urlsplit(str(logger.save_dir)).scheme not in _LOCAL
    if isinstance(logger, MLFlowLogger):
        return urlsplit(str(logger._tracking_uri)).scheme not in _LOCAL
    return True


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
    logger = WandbLogger(
        offline=not online,
        name=name or f"{folder.name}-{stage}",
        group=group or folder.name,
        job_type=stage,
        project=os.environ.get("WANDB_PROJECT", "histotransfer_pl"),
        save_dir=folder,
        settings=wandb.Settings(silent=True, console="off"),
    )
    # Lightning 2.6 passes it on, W&B 0.31 warns that it means nothing.
    logger._wandb_init.pop("anonymous", None)
    board = Board(logger)
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
