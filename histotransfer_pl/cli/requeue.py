"""A fit that SLURM ends and starts again goes on by itself.

Lightning takes SIGUSR1 as the warning that the time of a job is over (`#SBATCH
--signal=SIGUSR1@90 --requeue`): it writes a checkpoint amid the epoch and asks for the job to be
started again. The same command then finds its run folder in use.
"""

import logging
import os
from pathlib import Path

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

_AMID_EPOCH = "hpc_ckpt_*.ckpt"
"""Lightning's name for what it writes at the warning."""


def is_restarted() -> bool:
    """Whether SLURM has started this very job before."""
    return SLURMEnvironment.detect() and int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def point_to_go_on_from(run_dir: Path, last: Path) -> str | None:
    """The checkpoint of the last whole epoch, or else the one of the warning; None before both.

    From a whole epoch a fit goes on to the weights of an uninterrupted one; amid an epoch
    Lightning starts the order of the bags anew.
    """
    if last.is_file():
        return str(last)
    return next(iter(sorted(map(str, run_dir.glob(_AMID_EPOCH)))), None)


def forget_warnings(run_dir: Path, kept: str | None) -> None:
    """Remove what was written at warnings: Lightning would take it up unasked."""
    for path in run_dir.glob(_AMID_EPOCH):
        if str(path) != kept:
            path.unlink(missing_ok=True)


def print_requeues() -> None:
    """Let Lightning say in the log of a SLURM job that it was requeued."""
    if SLURMEnvironment.detect():
        name = "lightning.pytorch.trainer.connectors.signal_connector"
        logging.getLogger(name).setLevel(logging.INFO)
