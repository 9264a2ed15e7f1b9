"""The records in the attributes of feature arrays, also of those that earlier releases wrote."""

from collections.abc import Mapping, Sequence
from typing import Any

from histotransfer_pl.records.encoder import (
    EncoderSpec,
    FeatureSpec,
    TunedOn,
    WeightsKind,
    WeightsRef,
)
from histotransfer_pl.records.run import ClassSpec, RunRecord, SelectionSpec, TargetSpec

ENCODER = "encoder_spec"
"""Attribute of a feature array that holds its `EncoderSpec`."""

_RANDOM = "random:"


def encoder_spec(attributes: Mapping[str, Any], store_name: str = "") -> EncoderSpec:
    """The encoder that made an array.

    Raises:
        RecordError: The record is damaged or of a later version.
    """
    if ENCODER in attributes:
        return EncoderSpec.from_json(attributes[ENCODER])
    architecture = str(attributes.get("architecture", ""))
    input_px = attributes.get("input_px")
    return EncoderSpec(
        name=str(attributes.get("encoder", store_name)),
        architecture=architecture,
        weights=_weights(attributes, imported=not architecture),
        pooling=str(attributes.get("pooling", "")),
        mean=tuple(map(float, attributes.get("mean", ()))),
        std=tuple(map(float, attributes.get("std", ()))),
        input_px=None if input_px is None else int(input_px),
    )


def feature_spec(
    arrays: Sequence[Mapping[str, Any]],
    store_name: str,
    depths: Sequence[str],
    width: int,
    dtype: str,
) -> FeatureSpec:
    """The features that a head reads, from the attributes of their arrays.

    Raises:
        RecordError: The record is damaged or of a later version.
    """
    first = arrays[0]
    return FeatureSpec(
        encoder=encoder_spec(first, store_name),
        depths=tuple(depths),
        width=width,
        dtype=dtype,
        precision=str(first.get("precision", "")),
        store_name=store_name,
        tuned_on=tuned_on(first),
    )


def tuned_on(attributes: Mapping[str, Any]) -> TunedOn | None:
    """On whom the encoder of an array was tuned; None for one that was not."""
    if "tuned_on_patients" not in attributes:
        return None
    fold = attributes.get("tuned_fold")
    return TunedOn(
        train_patients=tuple(attributes["tuned_on_patients"]),
        validation_patients=tuple(attributes.get("tuned_validation_patients", ())),
        fold=None if fold is None else int(fold),
        run=str(attributes.get("tuned_run", "")),
    )


def first_version_record(found: Mapping[str, Any], *, standardized: bool) -> RunRecord:
    """What the checkpoints of the first release noted, as a record."""
    selection = None
    if "selection" in found:
        selection = SelectionSpec(
            str(found["selection"]), str(found.get("rule", "")), int(found.get("k", 0))
        )
    return RunRecord(
        features=FeatureSpec(
            encoder_spec(found, str(found["encoder"])),
            (str(found["depth"]),),
            int(found["in_features"]),
            store_name=str(found["encoder"]),
            tuned_on=tuned_on(found),
        ),
        target=TargetSpec(str(found["target"]), tuple(map(str, found["classes"]))),
        head=ClassSpec(f"histotransfer_pl.models.heads.{found.get('head', '')}"),
        bag=found.get("bag", "slide"),
        train_patients=tuple(found.get("train_patients", ())),
        validation_patients=tuple(found.get("validation_patients", ())),
        standardized=standardized,
        selection=selection,
        base=str(found.get("stage1_sha256", "")),
    )


def _weights(attributes: Mapping[str, Any], *, imported: bool) -> WeightsRef:
    """Earlier releases wrote random weights as the hash ``random:<seed>``."""
    sha256 = str(attributes.get("weights_sha256", ""))
    origin = str(attributes.get("weights", ""))
    if sha256.startswith(_RANDOM):
        return WeightsRef("random", seed=int(sha256.removeprefix(_RANDOM)))
    tuned = "tuned" in attributes or "tuned_on_patients" in attributes
    kind: WeightsKind = "imported" if imported else "tuned" if tuned else "pretrained"
    return WeightsRef(kind, origin, sha256, base=str(attributes.get("tuned_from_sha256", "")))
