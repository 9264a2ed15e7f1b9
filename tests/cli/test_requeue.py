"""SLURM warns: the fit is saved and requeued, and ends with the weights of an uninterrupted one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from histotransfer_pl.cli.main import main
from histotransfer_pl.cli.requeue import forget_warnings, point_to_go_on_from
from tests.cli.conftest import Run

SLURM = {
    **{"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "fit", "SLURM_JOB_ID": "42"},
    **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
}


@pytest.mark.slow
def test_a_warned_fit_is_saved_requeued_and_goes_on(
    run: Run, cohort: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scontrol = cohort / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {cohort}/requeued.txt\n')
    scontrol.chmod(0o755)
    settings = (
        *("--run_dir", "r", "--data.store", "s.zarr", "--data.cohort", "c.csv"),
        *("--trainer.max_epochs", "20000", "--trainer.enable_progress_bar", "false"),
    )
    fit = subprocess.Popen(
        [sys.executable, "-m", "histotransfer_pl", "fit", *settings],
        cwd=cohort,
        env={**os.environ, **SLURM, "PATH": f"{scontrol.parent}:{os.environ['PATH']}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    last = cohort / "r" / "checkpoints" / "last.ckpt"
    _wait_for(last, fit)
    fit.send_signal(signal.SIGUSR1)
    _wait_for(cohort / "requeued.txt", fit)
    assert (cohort / "requeued.txt").read_text() == "requeue 42\n"
    assert (cohort / "r" / "hpc_ckpt_1.ckpt").is_file()
    fit.send_signal(signal.SIGTERM)  # SLURM's next word
    error = fit.communicate(timeout=300)[1]
    assert fit.returncode == 143, error
    assert "Requeued SLURM job: 42" in error

    epochs = int(torch.load(last, weights_only=True)["epoch"]) + 3
    assert run("fit", "--run_dir", "whole", epochs=epochs) == 0
    for name, value in {**SLURM, "SLURM_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", *settings, "--trainer.max_epochs", str(epochs)]) == 0
    assert f"SLURM started this job again: it goes on from {last.relative_to(cohort)}" in (
        capsys.readouterr().out
    )
    assert not list((cohort / "r").glob("hpc*"))
    weights = [
        torch.load(cohort / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("r", "whole")
    ]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_before_the_first_epoch_ended_the_warnings_checkpoint_is_taken(tmp_path: Path) -> None:
    last, warned = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "hpc_ckpt_1.ckpt"
    assert point_to_go_on_from(tmp_path, last) is None
    warned.touch()
    assert point_to_go_on_from(tmp_path, last) == str(warned)
    forget_warnings(tmp_path, kept=str(warned))
    assert warned.exists()
    forget_warnings(tmp_path, kept=None)
    assert not warned.exists()


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 500  # of a busy machine
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert path.exists()
