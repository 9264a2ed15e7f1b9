"""The cores that count are those of affinity and quota, not those of the machine."""

import os
from pathlib import Path

import pytest

from histotransfer_pl.data.cores import available_cores


@pytest.fixture(autouse=True)
def _eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def _files(folder: Path, **content: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8)],
)
def test_quota_of_a_container(tmp_path: Path, quota: str, cores: int) -> None:
    groups = _files(tmp_path / "cg", cpu__max=quota)
    own = _files(tmp_path, own="0::/\n") / "own"
    assert available_cores(groups, own) == cores


def test_the_smallest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    _files(tmp_path / "cg" / "job", cpu__max="300000 100000")
    _files(tmp_path / "cg" / "job" / "step", cpu__max="max 100000")
    own = _files(tmp_path, own="0::/job/step\n") / "own"
    assert available_cores(tmp_path / "cg", own) == 3


def test_first_version_of_control_groups(tmp_path: Path) -> None:
    quota = {"cpu__cfs_quota_us": "200000\n", "cpu__cfs_period_us": "100000\n"}
    _files(tmp_path / "cg" / "cpu" / "docker", **quota)
    own = _files(tmp_path, own="4:cpu,cpuacct:/docker\n1:name=systemd:/x\n") / "own"
    assert available_cores(tmp_path / "cg", own) == 2
    quota["cpu__cfs_quota_us"] = "-1\n"
    _files(tmp_path / "cg" / "cpu" / "docker", **quota)
    assert available_cores(tmp_path / "cg", own) == 8


def test_without_control_groups(tmp_path: Path) -> None:
    assert available_cores(tmp_path / "none", tmp_path / "neither") == 8
