"""The report on boards: what is missing costs one line, and pictures of slides stay here."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from histotransfer_pl.callbacks import report_board
from histotransfer_pl.callbacks.board import Board
from histotransfer_pl.callbacks.media import Media
from histotransfer_pl.callbacks.report_board import log_report, report_boards


def figure(width: int) -> tuple[bytes, str]:
    with io.BytesIO() as file:
        Image.fromarray(np.zeros((40, width, 3), np.uint8)).save(file, "PNG")
        return file.getvalue(), "a caption"


def test_tensorboard_and_mlflow_get_figures_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    boards = report_boards(["tensorboard", "mlflow"], tmp_path, "s")
    table = pd.DataFrame({"Arm": ["a"], "AUROC": [0.5]})
    log_report(boards, {"figures/arms": figure(700)}, {"arms": table}, {"best": "a did best"})
    events = EventAccumulator(str(tmp_path / "tensorboard/report"))
    events.Reload()
    assert "tables/arms/text_summary" in events.Tags()["tensors"]
    (drawn,) = events.Images("figures/arms")
    assert drawn.width >= 700  # letters stay readable
    (run,) = (tmp_path / "mlruns").glob("*/*/artifacts")
    made = {path.relative_to(run).as_posix() for path in run.rglob("*.*")}
    assert made == {"figures/arms-0.png", "tables/arms-0.csv"}
    assert (run.parent / "params" / "best").read_text() == "a did best"


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
    figures = {"figures/arms": figure(4), "slides/A-17": figure(4)}
    log_report([board], figures, {}, {"best": "x"})
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
