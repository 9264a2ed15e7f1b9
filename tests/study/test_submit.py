"""Tasks in a queue: processes of this machine, and a SLURM of three scripts that queue nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.files import write_text
from histotransfer_pl.runs.state import read_states
from histotransfer_pl.runs.steps import PLAN, Plan
from histotransfer_pl.study.batches import make_batches
from histotransfer_pl.study.status import describe_status
from histotransfer_pl.study.submit import Local, Slurm, Task, run_here, submit_batches


def work(argv: Sequence[str]) -> int:
    """Writes the file that its argument names; as often as it is called, a line more.

    With a file `slow` beside it, the first call of `b` never ends.
    """
    folder = Path.cwd()
    with (folder / "calls").open("a") as file:
        file.write(f"{argv[1]} {os.getpid()}\n")
    if argv[1] == "b" and (folder / "slow").exists():
        (folder / "slow").unlink()
        # Short sleeps: a signal that another thread of the process takes does not end one.
        for _ in range(6000):
            time.sleep(0.1)
    if argv[1] == "d" and (folder / "bad").exists():
        sys.stderr.write("error: no space\n")
        return 1
    (folder / argv[1]).write_text("x")
    return 0


@pytest.fixture
def planned(chain: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The chain a, b, c and d alone, written into its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    write_text(tmp_path / PLAN, chain.to_json())
    return chain


def task(folder: Path) -> Task:
    return Task(folder, (), work, {}, {"HISTO_TEST": "1"})


def calls(folder: Path) -> dict[str, list[str]]:
    """Processes that ran each step."""
    found: dict[str, list[str]] = {}
    for line in (folder / "calls").read_text().splitlines():
        found.setdefault(line.split()[0], []).append(line.split()[1])
    return found


@pytest.mark.slow
def test_local_tasks_are_killed_and_queued_again_and_lose_nothing(
    planned: Plan, tmp_path: Path
) -> None:
    (tmp_path / "slow").touch()
    (tmp_path / "bad").touch()
    engine = Local(tmp_path / "jobs", 2)
    batches = make_batches(planned, planned.steps, {}, 2, {})
    assert [batch.steps for batch in batches] == [("a", "b", "c"), ("d",)]
    jobs = submit_batches(engine, task(tmp_path), batches)
    while len(calls_so_far(tmp_path)) < 3:
        time.sleep(0.05)
    status = describe_status(planned, tmp_path)
    assert "running: b" in status
    assert f"failed: d, see {tmp_path / 'logs' / 'd.log'}\n  error: no space" in status
    # What a cluster does before it takes a node away: the task queues itself again.
    os.kill(int(calls(tmp_path)["b"][0]), signal.SIGUSR2)
    engine.wait()
    assert all(job.done() for job in jobs)
    ran = calls(tmp_path)
    assert {name: len(of) for name, of in ran.items()} == {"a": 1, "b": 2, "c": 1, "d": 1}
    assert ran["a"][0] == ran["b"][0] != ran["b"][1] == ran["c"][0]
    states = {name: state.state for name, state in read_states(tmp_path, planned).items()}
    assert states == {"a": "done", "b": "done", "c": "done", "d": "failed"}


def calls_so_far(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []


def test_a_task_that_was_killed_is_completed_by_the_next_submission(
    planned: Plan, tmp_path: Path
) -> None:
    (tmp_path / "slow").touch()
    batches = make_batches(planned, planned.steps[:3], {}, 2, {})
    engine = Local(tmp_path / "jobs", 2)
    submit_batches(engine, task(tmp_path), batches)
    while len(calls_so_far(tmp_path)) < 2:
        time.sleep(0.05)
    os.kill(int(calls(tmp_path)["b"][0]), signal.SIGKILL)
    engine.wait()
    assert len(calls(tmp_path)["b"]) == 1
    states = read_states(tmp_path, planned)
    assert [states[name].state for name in "abc"] == ["done", "waiting", "waiting"]
    assert not run_here(Local(tmp_path / "jobs", 2), task(tmp_path), batches)
    assert {name: len(of) for name, of in calls(tmp_path).items()} == {"a": 1, "b": 2, "c": 1}


SBATCH = """#!/bin/sh
n=$(ls {folder}/queue | wc -l)
cp "$1" {folder}/queue/$n.sh
echo "Submitted batch job 10$n"
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the scripts that were given to sbatch."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "queue").mkdir()
    scripts = {
        "sbatch": SBATCH.format(folder=tmp_path),
        # srun --unbuffered --output FILE --error FILE COMMAND...
        "srun": '#!/bin/sh\nshift 5\nexec "$@"\n',
        "scontrol": f"#!/bin/sh\necho $@ > {tmp_path}/requeued\n",
    }
    for name, text in scripts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return tmp_path / "queue"


def test_slurm_gets_what_each_kind_of_step_asks_and_what_it_waits_for(
    planned: Plan, tmp_path: Path, slurm: Path
) -> None:
    steps = [replace(s, kind="extract") if s.name == "a" else s for s in planned]
    plan = Plan("chain", tuple(steps))
    write_text(tmp_path / PLAN, plan.to_json())
    settings = {
        "all": {"mem_gb": 1.5, "sbatch": {"account": "lab"}},
        "extract": {"gpus": 1, "partition": "gpu", "minutes": 90, "cpus": 6},
        "fit": {"minutes": 30},
    }
    batches = make_batches(plan, plan.steps, settings, 5, {})
    jobs = submit_batches(Slurm(tmp_path / "jobs"), task(tmp_path), batches)
    assert [job.job_id for job in jobs] == ["100", "101", "102"]
    alone, first, behind = [(slurm / f"{n}.sh").read_text() for n in range(3)]
    for line in ("partition=gpu", "time=90", "gpus-per-node=1", "cpus-per-task=6", "requeue"):
        assert f"#SBATCH --{line}\n" in first
    assert "dependency" not in first + alone
    assert "#SBATCH --dependency=afterany:101\n" in behind
    assert "partition" not in alone + behind
    for script in (first, alone, behind):
        assert "#SBATCH --mem=1536MB\n" in script
        assert "#SBATCH --account=lab\n" in script


def test_a_preempted_slurm_job_asks_for_its_place_again_and_goes_on(
    planned: Plan, tmp_path: Path, slurm: Path
) -> None:
    (tmp_path / "slow").touch()
    batches = make_batches(planned, planned.steps[:3], {}, 1, {})
    submit_batches(Slurm(tmp_path / "jobs"), task(tmp_path), batches)
    environment = {**os.environ, "SLURM_JOB_ID": "100", "SLURM_NTASKS": "1"}
    job = subprocess.Popen(["sh", slurm / "0.sh"], env=environment)
    while len(calls_so_far(tmp_path)) < 2:
        time.sleep(0.05)
    # The order in which SLURM sends them; the first must not pass for a failed step.
    process = int(calls(tmp_path)["b"][0])
    os.kill(process, signal.SIGTERM)
    os.kill(process, signal.SIGUSR2)
    assert job.wait() != 0
    assert (tmp_path / "requeued").read_text() == "requeue 100\n"
    assert read_states(tmp_path, planned)["b"].state == "waiting"
    subprocess.run(["sh", slurm / "0.sh"], env=environment, check=True)
    states = read_states(tmp_path, planned)
    assert [states[name].state for name in "abc"] == ["done"] * 3
    assert len(calls(tmp_path)["a"]) == 1


def test_without_slurm_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs srun and sbatch, which are not on this machine"):
        Slurm(tmp_path)
    with pytest.raises(ConfigError, match="--tasks is 0, expected 1 or more"):
        Local(tmp_path, 0)
