"""A run folder tells of one fit only."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from histotransfer_pl.callbacks.run_record import STALE, RunIdentity, RunRecordWriter
from histotransfer_pl.callbacks.tuned_encoder import write_unreadable


class _Parser:
    def dump(self, config: object, **_: object) -> str:
        return f"seed: {config}\n"


def trainer_in(folder: Path, **more: Any) -> Any:
    facts = {"default_root_dir": str(folder), "ckpt_path": None, "is_global_zero": True}
    return SimpleNamespace(**{**facts, "world_size": 1, **more})


def writer_of(config: object) -> RunRecordWriter:
    return RunRecordWriter(_Parser(), config)  # type: ignore[arg-type]


@pytest.fixture
def used(tmp_path: Path) -> Path:
    for name in STALE:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


def test_a_new_fit_takes_away_what_an_earlier_one_left_and_nothing_else(used: Path) -> None:
    writer_of(1).on_fit_start(trainer_in(used), None)  # type: ignore[arg-type]
    left = {path.name for path in used.rglob("*") if path.is_file()}
    assert left == {"notes.txt", "config.yaml"}
    assert (used / "config.yaml").read_text() == "seed: 1\n"


@pytest.mark.parametrize("more", [{"ckpt_path": "last.ckpt"}, {"is_global_zero": False}])
def test_a_fit_that_goes_on_and_other_ranks_take_nothing_away(
    used: Path, more: dict[str, Any]
) -> None:
    writer_of(2).on_fit_start(trainer_in(used, **more), None)  # type: ignore[arg-type]
    # a fit that goes on changes what predict said
    changed = {"predictions.csv"} if "ckpt_path" in more else set()
    left = {name for name in STALE if (used / name).exists()}
    assert left == {*STALE} - changed
    assert (used / "config.yaml").exists() == ("ckpt_path" in more)


def test_each_stage_has_its_own_file(tmp_path: Path) -> None:
    for stage in ("fit", "test"):
        writer_of(stage).setup(trainer_in(tmp_path), None, stage)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["config_test.yaml"]  # fit's waits


def test_a_run_without_a_checkpoint_has_no_identity(tmp_path: Path) -> None:
    RunIdentity().on_fit_end(trainer_in(tmp_path), torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_patches_that_could_not_be_read_are_listed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache: Any = SimpleNamespace(unreadable={})
    write_unreadable(trainer_in(tmp_path), cache)
    assert not list(tmp_path.iterdir())
    cache.unreadable = {("b", 3): "damaged", ("a", 5): "=gone"}
    write_unreadable(trainer_in(tmp_path), cache)
    lines = (tmp_path / "unreadable_patches.csv").read_text().splitlines()
    assert lines == ["slide_id,row,reason", "a,5,'=gone", "b,3,damaged"]
    assert "2 patches of 2 slides could not be read" in caplog.text
