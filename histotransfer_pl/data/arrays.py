"""Bags of plain arrays: read and checked before anything is written."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import ConfigError

_SHAPES = {"X": "(instances, D)", "bag": "(instances,)", "y": "(bags,)"}
_KINDS = {"X": "numbers", "bag": "whole numbers or text", "y": "numbers or text"}
_DIMENSIONS = {"X": 2, "bag": 1, "y": 1}
_KIND_CODES = {"X": "biuf", "bag": "iuU", "y": "biufU"}


def read_arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
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


def name_bags(bags: NDArray[Any]) -> tuple[list[str], NDArray[np.str_]]:
    """The id of each bag in order, and that of each instance (N,)."""
    values, bag_of_row = np.unique(bags, return_inverse=True)  # (S,), (N,)
    if bags.dtype.kind == "U":
        ids = [str(value) for value in values]
    else:
        # as wide as the largest, so that ids sort as the numbers do
        width = len(str(values.max(initial=0)))
        ids = [f"{value:0{width}d}" for value in values]
    return ids, np.array(ids, dtype=np.str_)[bag_of_row]
