"""Tuned encoders as files: weights together with the facts they must never be parted from."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from histotransfer_pl.encoders.entry import EncoderEntry
from histotransfer_pl.errors import WeightsError
from histotransfer_pl.records.encoder import EncoderSpec, WeightsRef
from histotransfer_pl.records.files import replacing

_FACTS = "histotransfer_pl"
"""Entry of the safetensors metadata that holds the facts, as JSON."""


def save_weights(
    state: Mapping[str, Tensor], path: Path, spec: EncoderSpec, facts: Mapping[str, Any]
) -> None:
    """Write weights as safetensors, whole or not at all.

    Args:
        state: Those of the (cut) network, or of its adapters alone.
        path: File to write, `.safetensors`.
        spec: What it was built from; its arguments and normalisation go with the weights.
        facts: What else is worth knowing, as plain JSON types: fold, training patients, run.
    """
    kept = {"spec": spec.to_json(), **facts}
    tensors = {key: value.detach().contiguous() for key, value in state.items()}
    with replacing(path) as aside:
        safetensors.torch.save_file(tensors, aside, metadata={_FACTS: json.dumps(kept)})


def read_facts(path: Path, entry: EncoderEntry) -> dict[str, Any] | None:
    """Facts written by `save_weights`; None for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_FACTS)
    except (safetensors.SafetensorError, OSError):
        return None  # not safetensors: whoever reads the tensors says what is wrong
    if text is None:
        return None
    facts: dict[str, Any] = json.loads(text)
    spec = _spec(facts, entry)
    unlike = spec.differs(entry.spec(spec.weights), ignore=_FREE)
    if unlike:
        raise WeightsError(
            f"{path} was tuned from {spec.name} and can't be loaded as {entry.name} "
            f"({'; '.join(unlike)}): set the encoder's name to {spec.name}, and its model_args"
        )
    return facts


_FREE = ("name", "pooling", "input_px")
"""What may change when tuned weights are used: their values fit all the same."""


def _spec(facts: Mapping[str, Any], entry: EncoderEntry) -> EncoderSpec:
    if "spec" in facts:
        return EncoderSpec.from_json(facts["spec"])
    # files of the first version
    return replace(
        entry.spec(WeightsRef("pretrained")),
        name=facts["encoder"],
        architecture=facts["architecture"],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
    )
