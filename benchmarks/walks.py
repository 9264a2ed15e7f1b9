"""How often a reader goes back: `python -m benchmarks.walks --folder OUT`.

For each job the functions of the package are listed in the order of their first call. A return is a
step up or sideways into a room (a folder of the package) that was left before; a step down, into a
room that may be imported, is what a reader expects. Rooms that every other one reads (`records`,
`errors`) do not count, and neither do comprehensions, lambdas and what runs while a module is
imported: all are imported before.
"""

import argparse
import importlib
import itertools
import os
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import histotransfer_pl
from histotransfer_pl.cli.main import main as verb
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.slides.synthetic import paint_cohort

_ROOT = str(Path(histotransfer_pl.__file__).parent) + os.sep
_EVERYWHERE = ("records", "errors.py", "__init__.py")
_LAYERS = (
    *(("slides",), ("store", "encoders"), ("analysis", "models"), ("outcomes",), ("data",)),
    *(("runs",), ("tasks",), ("callbacks",), ("report", "study"), ("inference",), ("cli",)),
    ("api.py",),
)
"""Rooms from the lowest to the highest, as in `pyproject.toml`."""
_HEIGHT = {room: height for height, rooms in enumerate(_LAYERS) for room in rooms}
_ENCODER = ("--model.encoder", "timm:test_resnet", "--model.weights", "random")
_STUDY = """\
name: walk
cohort: demo/cohort.csv
encoders: [{name: "timm:test_resnet", alias: e, weights: random, depths: [layer1, layer4]}]
heads: {mean: {class_path: MeanPoolHead}, abmil: {class_path: AttentionHead}}
folds: {n_folds: 3}
costs: true
similarity: [{first: e, second: random}]
fit: {trainer: {max_epochs: 1}}
extract: {data: {qc: false}}
"""


def rooms_of(job: Callable[[], object]) -> list[str]:
    """Rooms in the order in which functions are called for the first time."""
    seen: set[object] = set()
    rooms: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        name = code.co_filename
        if event != "call" or code in seen or not name.startswith(_ROOT) or "<" in code.co_name:
            return
        seen.add(code)
        room = Path(name.removeprefix(_ROOT)).parts[0]
        if room not in _EVERYWHERE:
            rooms.append(room)

    sys.setprofile(note)
    try:
        job()
    finally:
        sys.setprofile(None)
    return rooms


def returns(rooms: list[str]) -> int:
    """Steps up or sideways into a room that was left before.

    Example:
        >>> returns(["cli", "study", "runs", "study", "runs", "cli"])
        2
    """
    left: set[str] = set()
    count = 0
    for before, after in itertools.pairwise(rooms):
        if after != before:
            left.add(before)
            count += after in left and _HEIGHT[after] >= _HEIGHT[before]
    return count


def import_all() -> None:
    """Import every module, so that nothing runs for the first time because it is imported."""
    for module in pkgutil.walk_packages(histotransfer_pl.__path__, "histotransfer_pl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def main() -> None:
    import_all()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    os.environ["WANDB_MODE"] = "disabled"
    paint_cohort(Path("demo"), 6, 1, 0, 896)
    data = ("--data.store", "s.zarr", "--data.cohort", "demo/cohort.csv", "--data.n_folds", "3")
    quiet = ("--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "1")
    slides = ("--data.slides", "demo/slides", "--data.store", "s.zarr", "--data.qc", "false")
    Path("study.yaml").write_text(_STUDY, encoding="utf-8")
    jobs: dict[str, Callable[[], object]] = {
        "slide to store": lambda: verb(["extract", *slides, *_ENCODER]),
        "bag to loss": lambda: verb(["fit", "--run_dir", "r", "--overwrite", *data, *quiet]),
        "run to predictions": lambda: verb(["predict", "--run_dir", "r", *quiet]),
        "run to selection": lambda: verb(
            ["select", "--run_dir", "r", "--top_k", "4", "--overwrite"]
        ),
        "run to model file": lambda: verb(["package", "--run_dir", "r"]),
        "study file to plan": lambda: verb(["study", "--config", "study.yaml", "--dry_run"]),
        "study": lambda: verb(["study", "--config", "study.yaml"]),
        "study to report": lambda: verb(["report", "--study_dir", "studies/walk"]),
        "encoder name to network": lambda: build_encoder(EncoderConfig("resnet18", "random")),
    }
    found = {name: rooms_of(job) for name, job in jobs.items()}
    del found["study"]  # a whole program: it only makes what the report reads
    for name, rooms in found.items():
        path = [room for place, room in enumerate(rooms) if rooms[place - 1 : place] != [room]]
        print(f"{name}: {len(rooms)} functions, {returns(rooms)} returns: {' '.join(path)}")


if __name__ == "__main__":
    main()
