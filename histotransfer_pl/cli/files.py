"""Verbs that read and write files: plain functions whose signature is the command line."""

import shlex
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histotransfer_pl.callbacks.summary import print_outcomes
from histotransfer_pl.cli.network import SLIDES_FAILED
from histotransfer_pl.cli.parser import FileParser, spell_out_shard
from histotransfer_pl.data.mosaic import lay_out_tiles
from histotransfer_pl.data.patches import PatchDataModule
from histotransfer_pl.errors import CohortError, ConfigError
from histotransfer_pl.slides.synthetic import paint_cohort
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.importer import import_arrays


def call(function: Callable[..., int], arguments: list[str], verb: str) -> int:
    """Call a function with arguments from the command line or a YAML file."""
    parser = FileParser(
        prog=f"python -m histotransfer_pl {verb}",
        description=(function.__doc__ or "").split("\n\n", 1)[0],
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with the settings below.")
    parser.add_function_arguments(function, as_positional=False)
    config = parser.parse_args(arguments)
    values = parser.instantiate_classes(config).as_dict()
    values.pop("config", None)
    return function(**values)


def tile(arguments: list[str]) -> int:
    """Slides -> patch coordinates and QC thumbnails."""
    parser = FileParser(
        prog="python -m histotransfer_pl tile", description=tile.__doc__, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file with the settings below.")
    parser.add_class_arguments(PatchDataModule, "data")
    config = parser.parse_args(spell_out_shard(arguments))
    data: PatchDataModule = parser.instantiate_classes(config).data
    try:
        data.prepare_data()
    finally:
        data.teardown("predict")
    print_outcomes(data.outcomes, f"tile into {data.store_path}")
    if data.qc_folder is not None:
        say(f"thumbnails in {data.qc_folder}")
    failed = any(outcome.state == "failed" for outcome in data.outcomes.values())
    return SLIDES_FAILED if failed else 0


def paint(arguments: list[str]) -> int:
    """Painted slides for a trial."""
    return call(_paint, arguments, "paint")


def _paint(
    folder: Path = Path("demo"),
    patients: int = 12,
    slides_per_patient: int = 2,
    seed: int = 0,
    size_px: int = 2688,
    n_foci: int | None = None,
    focus_scale: float = 1.0,
) -> int:
    """Paint H&E-like slides of two classes, several a patient.

    Args:
        folder: Where ``slides/`` and ``cohort.csv`` go.
        patients: Number of patients.
        slides_per_patient: Slides of each.
        seed: Seed of the paint.
        size_px: Side of a slide in pixels of half a micrometre.
        n_foci: Foci of tumour in a slide with tumour; two or three when null.
        focus_scale: Size of the foci; 1 gives radii of about a tenth of the slide's side.
    """
    table = paint_cohort(folder, patients, slides_per_patient, seed, size_px, n_foci, focus_scale)
    say(f"painted slides and labels in {table}")
    return 0


def mosaic(arguments: list[str]) -> int:
    """Labelled tiles -> small slides of tiles of one class."""
    return call(_mosaic, arguments, "mosaic")


def _mosaic(
    tiles: Path,
    folder: Path,
    label: str = "label",
    group: str = "group",
    classes: list[str] | None = None,
    where: dict[str, list[str]] | None = None,
    groups_per_slide: int = 2,
    tiles_per_row: int = 2,
    mpp: float = 1.0,
    seed: int = 0,
) -> int:
    """Lay labelled tiles out as small slides, each of one class and of several sources.

    Args:
        tiles: CSV table with ``path`` and the two columns below.
        folder: Where ``slides/`` and ``cohort.csv`` go.
        label: Column of the class.
        group: Column of what must stay together: the patient or the larger tile it was cut from.
        classes: Classes to take; all when null.
        where: Take only tiles with one of these values in these columns, such as
            ``{split: [val, test]}``.
        groups_per_slide: Groups whose tiles make one slide.
        tiles_per_row: Tiles side by side.
        mpp: Micrometres per pixel to write into the slides.
        seed: Seed of the draw.
    """
    table = lay_out_tiles(
        tiles, folder, label, group, classes, where, groups_per_slide, tiles_per_row, mpp, seed
    )
    say(f"slides of tiles and their labels in {table}")
    return 0


def import_bags(arguments: list[str]) -> int:
    """Plain arrays -> a store."""
    return call(_import_bags, arguments, "import")


def _import_bags(
    arrays: Path, store: Path, cohort: Path, encoder: str = "given", depth: str = "last"
) -> int:
    """Import bags of plain arrays into a store, and their labels into a cohort table.

    Args:
        arrays: ``.npz`` file with ``X`` (instances, D), ``bag`` (instances,) and ``y`` (bags,),
            where ``y[i]`` belongs to the i-th smallest bag. Bags are whole numbers or text.
        store: Store to write.
        cohort: Cohort table to write; every bag is its own patient.
        encoder: Name of the features in the store.
        depth: Name of their depth in the store.
    """
    features, bags, labels = _read_arrays(arrays)
    if cohort.is_dir():
        raise ConfigError(f"cohort {cohort} is a folder: give the name of the table to write")
    ids, names = _ids(bags)
    if len(labels) != len(ids):
        raise CohortError(f"{arrays}: {len(labels)} labels y for {len(ids)} bags")
    import_arrays(store, features, names, encoder, depth)
    table = pd.DataFrame({"slide_id": ids, "patient_id": ids, "label": labels})
    cohort.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(cohort, index=False)
    say(f"{len(ids)} bags, {len(features)} instances of {features.shape[1]} features in {store}")
    say(f"labels in {cohort}")
    return 0


_SHAPES = {"X": "(instances, D)", "bag": "(instances,)", "y": "(bags,)"}
_KINDS = {"X": "numbers", "bag": "whole numbers or text", "y": "numbers or text"}
_DIMENSIONS = {"X": 2, "bag": 1, "y": 1}
_KIND_CODES = {"X": "biuf", "bag": "iuU", "y": "biufU"}


def _read_arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """X, bag and y, of the dimensions and kinds that can be imported."""
    if not path.is_file():
        raise ConfigError(f"no file {path}: give the .npz file with X, bag and y")
    # np.load of anything but an archive returns an array, or takes the file for a pickle
    if not zipfile.is_zipfile(path):
        raise ConfigError(
            f"{path} is not an .npz file: write one with numpy.savez(path, X=..., bag=..., y=...)"
        )
    with np.load(path, allow_pickle=False) as file:
        missing = _SHAPES.keys() - set(file.files)
        if missing:
            raise ConfigError(f"{path} has {file.files}; it lacks {sorted(missing)}")
        features, bags, labels = (_read_array(file, path, name) for name in _SHAPES)
    if len(bags) != len(features):
        raise ConfigError(
            f"{path}: bag has {len(bags)} entries for {len(features)} rows of X: expected the bag "
            "of each row"
        )
    return features, bags, labels


def _read_array(file: Mapping[str, NDArray[Any]], path: Path, name: str) -> NDArray[Any]:
    try:
        array = file[name]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigError(
            f"{path}: {name} cannot be read ({error}): expected an array of {_KINDS[name]}, "
            "neither of Python objects nor damaged; convert it with astype and save again"
        ) from error
    if array.ndim != _DIMENSIONS[name]:
        raise ConfigError(
            f"{path}: {name} has the shape {array.shape}, expected {_SHAPES[name]}: reshape it and "
            "save again"
        )
    if array.dtype.kind not in _KIND_CODES[name]:
        raise ConfigError(
            f"{path}: {name} is of type {array.dtype}, expected {_KINDS[name]}: convert it with "
            "astype and save again"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ConfigError(f"{path}: {name} holds values that are not finite: replace them first")
    return array


def _ids(bags: NDArray[Any]) -> tuple[list[str], NDArray[np.str_]]:
    """The id of each bag in order, and that of each instance (N,)."""
    values, bag_of_row = np.unique(bags, return_inverse=True)  # (S,), (N,)
    if bags.dtype.kind == "U":
        ids = [str(value) for value in values]
    else:
        # as wide as the largest, so that ids sort as the numbers do
        width = len(str(values.max(initial=0)))
        ids = [f"{value:0{width}d}" for value in values]
    return ids, np.array(ids, dtype=np.str_)[bag_of_row]


def verify(arguments: list[str]) -> int:
    """Read a whole store and name what is damaged."""
    return call(_verify, arguments, "verify")


def _verify(store: str, repair: bool = False) -> int:
    """Read every array of a store and compare it with its checksum.

    Args:
        store: The store, a folder or a URL.
        repair: Remove what is broken, so that the same ``extract`` makes it again.
    """
    opened = FeatureStore.open(store)
    slides = len(opened.slide_ids())
    problems = opened.verify(repair=repair)
    for problem in problems:
        say(str(problem))
    say(f"{slides} slides read, {len(problems)} problems")
    if repair and problems:
        say("what was broken is removed: run the extraction again")
    return 1 if problems else 0


def demo(arguments: list[str]) -> int:
    """The main job on painted slides: paint, extract, fit, test."""
    return call(_demo, arguments, "demo")


def _demo(configs: Path = Path("configs"), folder: Path = Path("demo")) -> int:
    """Run the main job on painted slides, printing each command.

    Args:
        configs: The folder of the shipped configurations.
        folder: Where the painted slides go.
    """
    from histotransfer_pl.cli.main import main

    if not (configs / "demo.yaml").is_file():
        raise ConfigError(f"no {configs}/demo.yaml: run this in the clone, or give --configs")
    for command in (
        f"paint --folder {folder}",
        f"extract --config {configs}/demo_extract.yaml",
        f"fit --config {configs}/demo.yaml --overwrite true",
        f"test --config {configs}/demo.yaml",
    ):
        say(f"\n$ python -m histotransfer_pl {command}")
        code = main(shlex.split(command))
        if code:
            return code
    return 0


def say(text: str) -> None:
    """One line of the answer of a command."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
