"""The report on boards: what is missing costs one line, and pictures of slides stay here."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from histotransfer_pl.callbacks import report_board
from histotransfer_pl.callbacks.board import Board
from histotransfer_pl.callbacks.media import Media
from histotransfer_pl.callbacks.report_board import log_report, report_boards


@pytest.mark.parametrize("online", [False, True])
def test_pictures_of_slides_stay_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, online: bool
) -> None:
    board = Board(TensorBoardLogger(tmp_path))
    board.online = online
    got: set[str] = set()

    def note(media: Mapping[str, Media], step: int = 0) -> None:
        del step
        got.update(media)

    monkeypatch.setattr(board, "log_media", note)
    with io.BytesIO() as file:
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "PNG")
        figure = (file.getvalue(), "a caption")
    log_report([board], {"figures/arms": figure, "slides/A-17": figure}, {}, {"best": "x"})
    assert got == ({"figures/arms"} if online else {"figures/arms", "slides/A-17"})


def test_a_board_without_its_package_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("no tensorboard")

    monkeypatch.setattr(report_board, "TensorBoardLogger", missing)
    assert report_boards(["tensorboard"], tmp_path, "s") == []
    (line,) = caplog.messages
    assert line.endswith('no tensorboard; pip install "histotransfer_pl[tensorboard]"')
