"""The encoder of a model, built again from its record and its weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import safetensors.torch
from torch import Tensor

from histotransfer_pl.encoders.catalogue import CATALOGUE, find_entry
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.encoders.entry import EncoderEntry
from histotransfer_pl.encoders.weights import WeightsFile, find_weights
from histotransfer_pl.errors import ConfigError, EncoderError, WeightsError
from histotransfer_pl.records.encoder import EncoderSpec, FeatureSpec
from histotransfer_pl.records.files import replacing, sha256_of
from histotransfer_pl.runs.model import SlideClassifier

_COPYABLE = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc0", "none needed")


def may_copy(spec: EncoderSpec) -> bool:
    """Whether the licence of an encoder's weights allows copying them into a model file."""
    if spec.weights.random:
        return True
    entry = CATALOGUE.get(spec.name)
    licence = "" if entry is None else entry.licence.lower()
    free = any(licence.startswith(name) for name in _COPYABLE)
    return free and "gated" not in licence and "condition" not in licence


def encoder_config(spec: EncoderSpec, depths: tuple[str, ...], weights: str) -> EncoderConfig:
    """The settings that build an encoder of a record.

    Args:
        spec: The encoder.
        depths: Where features are taken.
        weights: Path of its weights, ``default`` or ``random``.
    """
    name, entry = _entry(spec)
    return EncoderConfig(
        name,
        weights=weights,
        seed=spec.weights.seed or 0,
        depths=list(depths),
        input_px=spec.input_px,
        pooling=spec.pooling if spec.pooling != entry.pooling else "default",  # type: ignore[arg-type]
        model_args=dict(spec.model_args),
    )


def locate_weights(features: FeatureSpec, given: Path | None) -> WeightsFile | None:
    """The very file that the features were made with; None for weights that have none."""
    spec = features.encoder
    if spec.weights.kind == "random" or not spec.weights.sha256:
        return None
    _, entry = _entry(spec)
    found = find_weights(entry.source) if given is None else WeightsFile(given, str(given))
    if found is None:
        raise WeightsError(
            f"the weights of {spec.name} (sha256 {spec.weights.sha256[:12]}, "
            f"{spec.weights.origin}) are not on this machine: give the file with --weights, or put "
            f"{' or '.join(entry.source.files)} into the folder that HISTOTRANSFER_WEIGHTS names; "
            f"see {entry.source.page}"
        )
    own = sha256_of(found.path)
    if own != spec.weights.sha256:
        raise WeightsError(
            f"{found.path} (sha256 {own[:12]}) is not the file that the model's features were made "
            f"with ({spec.weights.sha256[:12]}, {spec.weights.origin}): give that one"
        )
    return found


def build_model_encoder(
    model: SlideClassifier, folder: Path, weights: Path | None = None
) -> EncoderConfig:
    """The settings of a model's encoder, its embedded weights written where they can be read.

    Raises:
        WeightsError: The weights are nowhere.
        ConfigError: Features that no encoder of the catalogue makes.
    """
    features = model.record.features
    spec = features.encoder
    if spec.weights.kind == "imported" or not spec.architecture:
        raise ConfigError(
            f"{model.name} was trained on imported features, and no encoder here makes them: give "
            "such features with --store"
        )
    if model.encoder is not None:
        path = folder / f"{model.id[:16]}.safetensors"
        _write(model.encoder, path)
        return encoder_config(spec, features.depths, str(path))
    if spec.weights.random:
        return encoder_config(spec, features.depths, "random")
    found = locate_weights(features, weights)
    place = "default" if found is None else str(found.path)
    return encoder_config(spec, features.depths, place)


def encoder_weights(features: FeatureSpec, weights: Path | None) -> dict[str, Tensor]:
    """Weights of an encoder up to the deepest block that features are taken from."""
    found = locate_weights(features, weights)
    place = "random" if features.encoder.weights.random else "default"
    config = encoder_config(
        features.encoder, features.depths, place if found is None else str(found.path)
    )
    encoder: PatchEncoder = build_encoder(config)
    return dict(encoder.network.state_dict())


def record_as(encoder: PatchEncoder, spec: EncoderSpec) -> None:
    """Let an encoder say what the record says of its weights: the same values from another file."""
    encoder.spec = replace(encoder.spec, name=spec.name, weights=spec.weights)


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    if not path.is_file():
        with replacing(path) as aside:
            safetensors.torch.save_file(dict(tensors), aside)


def _entry(spec: EncoderSpec) -> tuple[str, EncoderEntry]:
    """Name and entry of an encoder; early stores know the network's name in timm only."""
    try:
        return spec.name, find_entry(spec.name)
    except EncoderError:
        name = f"timm:{spec.architecture}"
        return name, replace(find_entry(name), pooling=spec.pooling)  # type: ignore[arg-type]
