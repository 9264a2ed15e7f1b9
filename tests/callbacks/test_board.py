"""A board that is not there costs one line and no wait; what goes online names nobody."""

import socket
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from histotransfer_pl.callbacks.board import Board, as_board, has_key, make_board, reachable


@pytest.fixture
def closed_port() -> str:
    """Address of a port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_key_without_a_network_goes_on_offline(
    tmp_path: Path,
    closed_port: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", closed_port)
    asked: dict[str, Any] = {}
    monkeypatch.setattr(Board, "attempt", lambda self, action: asked.update(online=self.online))
    board = make_board(tmp_path, "fit")
    assert board is not None
    assert asked == {"online": False}
    assert "does not answer within 3 s; going on offline" in caplog.text


def test_the_host_is_that_of_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / ".netrc").write_text("machine board.example login user password x\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert has_key("https://board.example")
    assert not has_key("https://elsewhere.example")


def test_a_listening_host_is_reachable() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        assert reachable(f"http://127.0.0.1:{server.getsockname()[1]}")
    assert not reachable("http://127.0.0.1:9")


def test_a_board_that_fails_is_left_out_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    board = Board(WandbLogger(offline=True, save_dir=tmp_path, name="x"))
    calls = []

    def fail() -> None:
        calls.append(1)
        raise wandb.errors.CommError("no service\nmore lines")

    for _ in range(3):
        board.attempt(fail)
    assert calls == [1]
    assert caplog.text.count("W&B failed and is left out from here on: no service") == 1
    assert "more lines" not in caplog.text


def test_only_what_stays_here_is_told_patients(
    tmp_path: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert not as_board(TensorBoardLogger(tmp_path)).online
    assert as_board(TensorBoardLogger("memory://runs")).online
    local = f"file:{tmp_path / 'mlruns'}"
    assert not as_board(MLFlowLogger(tracking_uri=local)).online
    assert as_board(MLFlowLogger(tracking_uri=closed_port)).online


def test_a_host_that_does_not_answer_is_left_out_at_once(
    closed_port: str, caplog: pytest.LogCaptureFixture
) -> None:
    board = as_board(MLFlowLogger(tracking_uri=closed_port))
    board.log_metrics({"val/loss": 1.0}, 0)  # would ask for minutes
    assert caplog.text.count("does not answer; it is left out") == 1
