"""Checkpoints read without executing anything, and the record of the run inside."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from histotransfer_pl.errors import ConfigError, StoreMismatchError
from histotransfer_pl.records.attributes import first_version_record
from histotransfer_pl.records.files import UNREADABLE, damaged_part
from histotransfer_pl.records.run import RunRecord

RECORD = "histotransfer_pl"
"""Where a checkpoint says on which features and classes it was trained."""

VERSION = 2
_MAY_DIFFER = (
    # whom it was trained on is compared patient by patient
    *("train_patients", "validation_patients", "split", "counts", "features.tuned_on"),
    # what the training part taught: a checkpoint keeps its own
    *("target.scale", "target.times"),
    # names and places, which say nothing of what the features are
    *("features.store_name", "target.column", "grid"),
    *("features.dtype", "features.precision", "versions", "base"),
)
_UNKNOWN_AT_FIRST = (
    *("name", "architecture", "pooling", "mean", "std", "input_px", "model_args"),
    *("weights.kind", "weights.origin", "weights.base"),
)
"""What the first release did not note of an encoder."""


def read_checkpoint(file: Path) -> dict[str, Any]:
    """The content of a checkpoint, read without executing anything.

    Raises:
        ConfigError: If it is damaged, or holds more than tensors and plain values.
    """
    _require_sound(file)
    try:
        with file.open("rb") as opened:  # of a path torch would believe the ending
            content = torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{file} is no checkpoint, or one that could execute code; nothing was loaded: give a "
            "checkpoint that fit wrote"
        ) from error
    except UNREADABLE as error:
        raise ConfigError(
            f"{file} is damaged ({type(error).__name__}): run fit again, or give another checkpoint"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ConfigError(f"{file} holds no model: give a checkpoint that fit wrote")
    return content


def _require_sound(file: Path) -> None:
    """Compare the file with its own checksums, which torch does not look at."""
    try:
        damaged = damaged_part(file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    if damaged is not None:
        raise ConfigError(
            f"{file} is damaged ({damaged}) or is no checkpoint: run fit again, or give another one"
        )


def upgrade(checkpoint: dict[str, Any]) -> None:
    """Bring a checkpoint of an earlier release into today's form, in place."""
    found = checkpoint.get(RECORD)
    if not isinstance(found, dict):
        raise StoreMismatchError(
            "the checkpoint does not say on which features it was trained; give one that "
            "histotransfer_pl fit wrote"
        )
    version = found.get("version", 1)
    if version == VERSION:
        return
    if version != 1:
        raise StoreMismatchError(
            f"the checkpoint is of format {version}, and this release reads up to {VERSION}: "
            "install the release that wrote it, or a later one"
        )
    scaling = checkpoint.get("FeatureDataModule", {}).get("scaling")
    state = checkpoint["state_dict"]
    # Statistics of one value were those of a head without scaling.
    mean, deviation = scaling or (state.get("feature_mean"), state.get("feature_deviation"))
    scales = mean is not None and len(mean) > 1
    state["feature_mean"] = mean if scales else torch.empty(0)
    state["feature_deviation"] = deviation if scales else torch.empty(0)
    record = first_version_record(found, standardized=scales)
    checkpoint[RECORD] = {"version": VERSION, "record": record.to_json()}


def read_record(checkpoint: dict[str, Any]) -> RunRecord:
    """The record of the run that wrote a checkpoint.

    Raises:
        StoreMismatchError: It does not say on which features it was trained.
        RecordError: What it says is damaged or of a later release.
    """
    upgrade(checkpoint)
    return RunRecord.from_json(checkpoint[RECORD]["record"])


def check_record(trained: RunRecord, present: RunRecord, also: Sequence[str] = ()) -> None:
    """Refuse a checkpoint that was trained on other features or classes."""
    ignore = [*_MAY_DIFFER, *also]
    if not trained.versions:
        ignore += [f"features.encoder.{name}" for name in _UNKNOWN_AT_FIRST]
        ignore += ["head.init_args", "target.positive", "selection"]
    differing = trained.differs(present, ignore)
    if differing:
        raise StoreMismatchError(
            "the checkpoint belongs to other data (checkpoint, not data): " + "; ".join(differing)
        )
