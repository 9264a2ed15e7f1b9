"""How often a reader goes back: `python -m benchmarks.walks --folder OUT`.

For each job the functions of the package are listed in the order of their first call. A return is a
step into a room (a folder of the package) that was left before. Rooms that every other one reads
(`records`, `errors`) do not count, and neither do comprehensions and lambdas.
"""

import argparse
import itertools
import os
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
_EVERYWHERE = ("records", "errors.py")
_ENCODER = ("--model.encoder", "timm:test_resnet", "--model.weights", "random")


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
    """Steps into a room that was left before."""
    left: set[str] = set()
    count = 0
    for before, after in itertools.pairwise(rooms):
        if after != before:
            left.add(before)
            count += after in left
    return count


def main() -> None:
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
    jobs: dict[str, Callable[[], object]] = {
        "slide to store": lambda: verb(["extract", *slides, *_ENCODER]),
        "bag to loss": lambda: verb(["fit", "--run_dir", "r", "--overwrite", *data, *quiet]),
        "run to predictions": lambda: verb(["predict", "--run_dir", "r", *quiet]),
        "run to selection": lambda: verb(
            ["select", "--run_dir", "r", "--top_k", "4", "--overwrite"]
        ),
        "run to model file": lambda: verb(["package", "--run_dir", "r"]),
        "encoder name to network": lambda: build_encoder(EncoderConfig("resnet18", "random")),
    }
    found = {name: rooms_of(job) for name, job in jobs.items()}
    for name, rooms in found.items():
        path = [room for place, room in enumerate(rooms) if rooms[place - 1 : place] != [room]]
        print(f"{name}: {len(rooms)} functions, {returns(rooms)} returns: {' '.join(path)}")


if __name__ == "__main__":
    main()
