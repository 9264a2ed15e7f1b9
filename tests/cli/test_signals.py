"""A fit that is ended from outside says so by its exit code, and goes on where it was."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Run

_SETTINGS = (
    *("--run_dir", "r", "--data.store", "s.zarr", "--data.cohort", "c.csv"),
    *("--trainer.max_epochs", "20000", "--trainer.enable_progress_bar", "false"),
)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_fit_that_is_ended_says_how_to_go_on(
    run: Run, cohort: Path, number: signal.Signals, code: int, word: str
) -> None:
    last = cohort / "r" / "checkpoints" / "last.ckpt"
    # A shell that starts it in the background lets it ignore Ctrl-C.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from histotransfer_pl.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    fit = subprocess.Popen(
        [sys.executable, "-c", program, "fit", *_SETTINGS],
        cwd=cohort,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not last.exists() and fit.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    fit.send_signal(number)
    error = fit.communicate(timeout=60)[1]
    assert fit.returncode == code, error
    assert f"{word}; go on with: python -m histotransfer_pl fit" in error
    assert "--ckpt_path last" in error
    assert run("test", "--ckpt_path", "last") == 0, "the checkpoint is whole"
