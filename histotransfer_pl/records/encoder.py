"""Which network made a feature vector: weights, encoder, features."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from histotransfer_pl.records.record import Record

WeightsKind = Literal["pretrained", "random", "tuned", "adapter", "imported"]


@dataclass(frozen=True)
class WeightsRef(Record):
    """Where the weights of an encoder come from.

    Attributes:
        kind: ``pretrained`` (published or given as a file), ``random``, ``tuned`` (by a run of
            ours), ``adapter`` (small weights on top of ``base``), or ``imported`` (the features
            came from another program, which alone knows).
        origin: Place, such as ``package:<name>``, ``hub:<repository>`` or ``path:<file name>``.
        sha256: Hash of the file's bytes; empty where there is no file.
        seed: Seed of random weights.
        base: Hash of the weights that an adapter or a tuning started from.
    """

    kind: WeightsKind
    origin: str = ""
    sha256: str = ""
    seed: int | None = None
    base: str = ""

    @property
    def random(self) -> bool:
        """Whether no training made them."""
        return self.kind == "random"


@dataclass(frozen=True)
class EncoderSpec(Record):
    """An encoder: two of them give the same features exactly if nothing here differs.

    Attributes:
        name: Name in the catalogue, ``timm:<name>``, or the class path of a network of one's own.
        architecture: Name of the network in timm, or the class path.
        weights: Its weights.
        model_args: Arguments of the network's constructor beyond the name.
        pooling: How feature maps become vectors.
        mean: Mean of the channels with which images are normalised, of values in [0, 1].
        std: Their standard deviation.
        input_px: Side to which patches are resized; None for as they are.
    """

    name: str
    architecture: str
    weights: WeightsRef
    model_args: Mapping[str, Any] = field(default_factory=dict)
    pooling: str = "average"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    input_px: int | None = None


@dataclass(frozen=True)
class TunedOn(Record):
    """On whom an encoder was tuned; its features must never be tested on these patients.

    Attributes:
        train_patients: Patients whose labels tuned the weights, in this run and before it.
        validation_patients: Patients who chose the epoch.
        fold: Test fold of the run, for messages.
        run: Id of the run.
    """

    train_patients: tuple[str, ...] = ()
    validation_patients: tuple[str, ...] = ()
    fold: int | None = None
    run: str = ""


@dataclass(frozen=True)
class FeatureSpec(Record):
    """The features that a head is trained on.

    Attributes:
        encoder: The network.
        depths: Blocks whose vectors are joined, in this order; usually one.
        width: Length D of the joined vector.
        dtype: Type in the store.
        precision: Precision in which the encoder ran, such as ``32-true``.
        store_name: Name of the encoder in the store; says nothing about what it is.
        tuned_on: For a tuned encoder, on whom.
    """

    encoder: EncoderSpec
    depths: tuple[str, ...]
    width: int
    dtype: str = "float16"
    precision: str = ""
    store_name: str = ""
    tuned_on: TunedOn | None = None
