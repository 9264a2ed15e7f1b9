"""A place that cannot be written is one line that names it, whatever the verb."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from histotransfer_pl.cli.main import main
from tests.cli.conftest import Run

X, BAG, Y = np.arange(12.0).reshape(6, 2), np.array([1, 1, 2, 2, 3, 3]), np.array([0, 1, 0])


@pytest.fixture
def finished(run: Run, cohort: Path) -> Path:
    """A run with predictions, and what other verbs read; ``file`` is in the way of folders."""
    assert run("fit", epochs=1) == 0
    assert run("test") == 0
    assert run("predict") == 0
    np.savez("a.npz", X=X, bag=BAG, y=Y)
    Path("file").write_text("in the way")
    return cohort


WRITING = {
    "fit": "fit --run_dir file/r --data.store s.zarr --data.cohort c.csv --trainer.max_epochs 1",
    "test": "test --run_dir r --output_dir file/r",
    "predict": "predict --run_dir r --output_dir file/r",
    "package": "package --run_dir r --out file/m.safetensors",
    "apply": "apply --model r --store s.zarr --out file/applied",
    "report": "report --runs r --out file/report",
    "export": "export --what features --encoder toy --depth last --store s.zarr --out file/export",
    "paint": "paint --folder file/slides",
    "import": "import --arrays a.npz --store file/new.zarr --cohort new.csv",
    "init": "init --file file/my.yaml",
    "tile": "tile --data.slides . --data.store file/t.zarr",
    "merge": "merge --stores s.zarr --out file/m.zarr",
}


def ends(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """How a verb ends: its one line, or everything that is wrong with its end."""
    capsys.readouterr()
    try:
        code = main(words.split())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a traceback is what must not be
        return repr(error)
    lines = capsys.readouterr().err.splitlines() or [""]
    errors = [line for line in lines if line.startswith("error: ")]
    return lines[-1] if code == 1 and errors == lines[-1:] else f"{code}: {lines}"


def test_a_file_in_the_way_is_named(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {verb: ends(words, capsys) for verb, words in WRITING.items()}
    odd = {v: line for v, line in found.items() if not line.startswith("error: ")}
    odd |= {v: line for v, line in found.items() if "file" not in line}
    assert not odd


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond ten bytes, as on a disk that is full: that of pytest neither."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verbs = {**WRITING, "select": "select --run_dir r --top_k 2"}
    with full_disk():
        found = {verb: ends(w.replace("file/", "new/"), capsys) for verb, w in verbs.items()}
    assert not {verb: line for verb, line in found.items() if not line.startswith("error: ")}
