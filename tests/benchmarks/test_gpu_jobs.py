"""The commands that run on a lent GPU: well formed for it, and to their end on a CPU."""

from pathlib import Path

import pytest

from benchmarks.gpu_jobs import JobError, Jobs, call, measure
from histotransfer_pl.cli.main import main

TINY = {"slides": 8, "size_px": 560, "patch_px": 64, "encoder": "timm:test_resnet", "epochs": 1}


def test_commands_name_the_gpu_in_settings_that_the_verbs_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = Jobs(tmp_path, **TINY)  # type: ignore[arg-type]
    assert main([*jobs.study("cuda").split(), "--dry_run"]) == 0
    steps = capsys.readouterr().out
    assert steps.count("--trainer.accelerator gpu") == 2 + 4 * 3  # two extract; fit, test, predict
    for command, said in (
        (jobs.extraction("cuda"), "accelerator: gpu"),
        (jobs.gain("cuda"), "device: cuda"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command.split(), "--print_config"])
        assert ended.value.code == 0
        assert said in capsys.readouterr().out


def test_a_command_that_fails_gives_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="verify failed: .*nowhere"):
        call(tmp_path, "verify --store nowhere", [{}, {"NODE_RANK": "1"}])


@pytest.mark.slow
def test_all_jobs_end_on_a_cpu() -> None:
    ranks, *rows = measure(**TINY, bags=20, width=16)  # type: ignore[arg-type]
    assert ranks.met
    assert ["without one" in row.left_out for row in rows] == [True] * 3
