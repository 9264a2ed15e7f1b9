"""One file that turns slides into predictions: safetensors with a record and a model card.

Reading it executes nothing: tensors, and JSON that names classes of this package only.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import xxhash
from torch import Tensor

from histotransfer_pl.errors import AnalysisError, ConfigError, HistoTransferError
from histotransfer_pl.records.calibration import Calibration
from histotransfer_pl.records.files import replacing, sha256_of
from histotransfer_pl.records.run import RunRecord
from histotransfer_pl.runs.checkpoints import read_checkpoint, read_record
from histotransfer_pl.runs.model import (
    COVARIATES,
    SlideClassifier,
    classifier_from_state,
    without_patients,
)
from histotransfer_pl.runs.validation import calibration_of

FORMAT = "histotransfer_pl_model"
VERSION = 1
TUNED_ENCODER = "encoder.safetensors"
CALIBRATION = "calibration"


def load_model(path: str | Path, *, allow_foreign: bool = False) -> SlideClassifier:
    """Open a model file, a run folder or a checkpoint.

    Args:
        path: What ``package`` wrote, the folder of a run, or a checkpoint of it.
        allow_foreign: Whether a head of another package may be imported, which executes its code.

    Raises:
        ConfigError: It is none of them, damaged, of a later release, or names foreign classes.
    """
    place = Path(path)
    if place.is_dir():
        place = place / "checkpoints" / "best.ckpt"
    if not place.is_file():
        raise ConfigError(
            f"no model at {path}: give a file that package wrote, or the folder of a finished run"
        )
    with place.open("rb") as file:
        head = file.read(9)
    try:
        if head[8:9] == b"{":
            return _read_model_file(place, allow_foreign=allow_foreign)
        return _read_run(place, allow_foreign=allow_foreign)
    except (ConfigError, OSError):
        raise
    except HistoTransferError as error:
        raise ConfigError(f"{place} cannot be used as a model: {error}") from error


def save_model(
    model: SlideClassifier,
    path: Path,
    card: str,
    encoder: Mapping[str, Tensor] | None,
    facts: Mapping[str, Any],
) -> None:
    """Write a model file, whole or not at all.

    Args:
        model: The model, with the patients it was trained on.
        path: File to write, ``.safetensors``.
        card: The model card, Markdown.
        encoder: Weights of the encoder to copy into the file, if they may be.
        facts: Licence of the encoder's weights, and where to get them.
    """
    record = model.record
    salt = secrets.token_hex(16)
    seen = sorted({*record.train_patients, *record.validation_patients})
    content = {
        "version": VERSION,
        "id": model.id,
        "record": without_patients(record).to_json(),
        "salt": salt,
        "patients": sorted(_hashed(patient, salt) for patient in seen),
        "card": card,
        **facts,
    }
    content |= {} if model.calibration is None else {CALIBRATION: model.calibration.to_json()}
    tensors = {f"head.{key}": value for key, value in model.head.state_dict().items()}
    tensors |= {"feature_mean": model.mean, "feature_deviation": model.deviation}
    tensors |= {} if model.covariates is None else {COVARIATES: model.covariates}
    tensors |= {f"encoder.{key}": value for key, value in (encoder or {}).items()}
    tensors = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
    content["checksum"] = _checksum(content, tensors)
    try:
        with replacing(path) as aside:
            safetensors.torch.save_file(tensors, aside, metadata={FORMAT: json.dumps(content)})
    except safetensors.SafetensorError as error:  # a full disk, too
        raise ConfigError(f"{path} cannot be written ({error}): free space on the disk") from error


def _read_model_file(path: Path, *, allow_foreign: bool) -> SlideClassifier:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(FORMAT)
            if text is None:
                raise ConfigError(
                    f"{path} is a safetensors file of another program or purpose, expected one "
                    "that package wrote"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        content = json.loads(text)
        version = content["version"]
        if version != VERSION:
            raise ConfigError(
                f"{path} is a model file of format {version}, and this release reads {VERSION}: "
                "install the release that wrote it"
            )
        if "checksum" in content and content.pop("checksum") != _checksum(content, tensors):
            raise ConfigError(f"{path} is damaged (its checksum differs): copy it again")
        record = RunRecord.from_json(content["record"])
        known = content.pop(CALIBRATION, None)  # older files have none
        calibration = None if known is None else Calibration.from_json(known)
        salt, seen = str(content["salt"]), frozenset(content["patients"])
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, HistoTransferError):
            raise
        raise ConfigError(f"{path} is damaged or cut short ({error}): copy it again") from error
    model = classifier_from_state(
        str(path), str(content["id"]), record, tensors, allow_foreign=allow_foreign
    )
    model.facts = {k: v for k, v in content.items() if k not in ("record", "patients", "salt")}
    model.knows_patient = lambda patient: _hashed(patient, salt) in seen
    model.calibration = calibration
    return model


def _read_run(checkpoint: Path, *, allow_foreign: bool) -> SlideClassifier:
    content = read_checkpoint(checkpoint)
    record = read_record(content)
    # The encoder of a tuned run lies beside its checkpoint under the network's own names.
    state = {k: v for k, v in content["state_dict"].items() if not k.startswith("encoder.")}
    tuned = checkpoint.parent.parent / TUNED_ENCODER
    if record.selection is not None:
        if not tuned.is_file():
            raise ConfigError(f"no {tuned}: give the folder of a fine-tuning run that has ended")
        weights = safetensors.torch.load_file(tuned)
        state |= {f"encoder.{key}": value for key, value in weights.items()}
    state = {key: torch.as_tensor(value) for key, value in state.items()}
    model = classifier_from_state(
        str(checkpoint), sha256_of(checkpoint), record, state, allow_foreign=allow_foreign
    )
    if record.target.task == "classification":
        try:
            model.calibration = calibration_of(checkpoint.parent.parent, record)
        except AnalysisError as error:  # it predicts all the same, and says this where asked
            model.uncalibrated = str(error)
    return model


def _checksum(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Of all that a model file holds: safetensors keeps none."""
    total = xxhash.xxh3_64(json.dumps(content, sort_keys=True).encode())
    for key, value in sorted(tensors.items()):
        total.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return f"xxh3:{total.hexdigest()}"


def _hashed(patient: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}:{patient}".encode("utf-8", "surrogatepass")).hexdigest()
