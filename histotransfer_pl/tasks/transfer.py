"""What a stage-1 run hands over: its head, and the facts that say where the head fits."""

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from histotransfer_pl.errors import ConfigError, StoreMismatchError
from histotransfer_pl.models.heads import MILHead
from histotransfer_pl.tasks.mil import CHECKPOINT_KEY

_HEAD = "head."
_MUST_AGREE = ("encoder", "depth", "weights_sha256", "in_features", "classes", "target")


@dataclass(frozen=True)
class Stage1:
    """A stage-1 checkpoint.

    Attributes:
        path: The file.
        sha256: Hash of its bytes.
        provenance: Encoder, depth, classes, head and patients, as the run recorded them.
        head: State dict of the head.
        scaling: Mean and deviation (D,) with which the run standardised features, if it did.
    """

    path: Path
    sha256: str
    provenance: dict[str, Any]
    head: dict[str, Tensor]
    scaling: tuple[Tensor, Tensor] | None


def read_stage1(path: Path) -> Stage1:
    """Read the checkpoint of a stage-1 run.

    Args:
        path: The checkpoint, or the run folder (then its ``checkpoints/best.ckpt``).

    Raises:
        ConfigError: If there is no such checkpoint, or it is none of a stage-1 run.
    """
    file = path / "checkpoints" / "best.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"no stage-1 checkpoint {file}: give the run folder of a finished fit of AttentionMIL"
        )
    content = read_checkpoint(file)
    provenance = content.get(CHECKPOINT_KEY)
    if not isinstance(provenance, dict) or "head" not in provenance:
        raise ConfigError(
            f"{file} does not say on which features it was trained: give a checkpoint that fit "
            "wrote with this version of histotransfer_pl"
        )
    state = content["state_dict"]
    if any(key.startswith("encoder.") for key in state):
        raise ConfigError(
            f"{file} is a fine-tuned run, which has no features of its own in a store: extract "
            "with its encoder.safetensors, run stage 1 on these features and give that run"
        )
    scaling = content.get("FeatureDataModule", {}).get("scaling")
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return Stage1(
        path=file,
        sha256=sha256,
        provenance=provenance,
        head={k.removeprefix(_HEAD): v for k, v in state.items() if k.startswith(_HEAD)},
        scaling=None if scaling is None else (scaling[0], scaling[1]),
    )


def read_checkpoint(file: Path) -> dict[str, Any]:
    """The content of a checkpoint, read without executing anything.

    Raises:
        ConfigError: If it is damaged, or holds more than tensors and plain values.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{file} is no checkpoint, or one that could execute code; nothing was loaded: give a "
            "checkpoint that fit wrote"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ConfigError(
            f"{file} is damaged: run fit again, or give another checkpoint"
        ) from error
    return content if isinstance(content, dict) else {}


def check_stage1(stage1: Stage1, present: dict[str, Any]) -> None:
    """Refuse a head that was trained on other features or classes, or is of another kind.

    Args:
        stage1: The checkpoint.
        present: Encoder, depth, classes and head here.

    Raises:
        StoreMismatchError: It lists what differs.
    """
    differing = [
        f"{key}: stage 1 {stage1.provenance.get(key)!r}, here {present[key]!r}"
        for key in (*_MUST_AGREE, "head")
        if stage1.provenance.get(key) != present[key]
    ]
    if differing:
        raise StoreMismatchError(
            f"the head of {stage1.path} does not fit: " + "; ".join(differing) + ". Give the run "
            "that was trained on these features with model.stage1, and its head with model.head"
        )


def transfer_head(stage1: Stage1, head: MILHead) -> None:
    """Copy the stage-1 weights into a head of the same settings.

    Raises:
        StoreMismatchError: If a weight is missing, left over or of another shape.
    """
    own = {key: tuple(value.shape) for key, value in head.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in stage1.head.items()}
    differing = [
        f"{key}: stage 1 {given.get(key)}, here {own.get(key)}"
        for key in sorted(own.keys() | given.keys())
        if own.get(key) != given.get(key)
    ]
    if differing:
        raise StoreMismatchError(
            f"the head of {stage1.path} has other settings: " + "; ".join(differing[:4]) + ". "
            "Repeat the head settings of stage 1 under model.head"
        )
    head.load_state_dict(stage1.head)
