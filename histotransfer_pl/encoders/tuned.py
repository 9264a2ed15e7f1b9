"""Tuned encoders as files: weights together with the facts they must never be parted from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from safetensors import safe_open
from torch import nn

from histotransfer_pl.encoders.entry import EncoderEntry
from histotransfer_pl.errors import WeightsError
from histotransfer_pl.records.files import replacing

_FACTS = "histotransfer_pl"
"""Entry of the safetensors metadata that holds the facts, as JSON."""


def save_weights(
    network: nn.Module, path: Path, entry: EncoderEntry, facts: Mapping[str, Any]
) -> None:
    """Write a network's weights as safetensors, whole or not at all.

    Args:
        network: The (cut) network; its keys are timm's.
        path: File to write, `.safetensors`.
        entry: The entry it was built from; its normalisation goes with the weights.
        facts: What else is worth knowing, as plain JSON types: fold, training patients, run.
    """
    kept = {
        "encoder": entry.name,
        "architecture": entry.architecture,
        "mean": list(entry.mean),
        "std": list(entry.std),
        **facts,
    }
    tensors = {key: value.detach().contiguous() for key, value in network.state_dict().items()}
    with replacing(path) as aside:
        safetensors.torch.save_file(tensors, aside, metadata={_FACTS: json.dumps(kept)})


def read_facts(path: Path, entry: EncoderEntry) -> dict[str, Any] | None:
    """Facts written by `save_weights`; None for any other file.

    Raises:
        WeightsError: If the weights belong to another network or another normalisation.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_FACTS)
    except (safetensors.SafetensorError, OSError):
        return None  # not safetensors: whoever reads the tensors says what is wrong
    if text is None:
        return None
    facts: dict[str, Any] = json.loads(text)
    expected = (entry.architecture, list(entry.mean), list(entry.std))
    if (facts["architecture"], facts["mean"], facts["std"]) != expected:
        raise WeightsError(
            f"{path} was tuned from {facts['encoder']} ({facts['architecture']}, mean "
            f"{facts['mean']}, std {facts['std']}) and can't be loaded as {entry.name}: set the "
            f"encoder's name to {facts['encoder']}"
        )
    return facts
