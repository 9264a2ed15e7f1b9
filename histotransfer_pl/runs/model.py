"""A trained model: features in, scores and attention out; no trainer, store or cohort."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from histotransfer_pl.analysis.conformal import p_values
from histotransfer_pl.analysis.recalibration import at_temperature
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.models.build import build_head
from histotransfer_pl.models.heads import MILHead
from histotransfer_pl.outcomes.kinds import outcome_of
from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.records.calibration import Calibration
from histotransfer_pl.records.run import RunRecord

_HEAD, _ENCODER = "head.", "encoder."
COVARIATES = "covariate_layer.weight"


class SlideResult(NamedTuple):
    """What a model says of one slide.

    Attributes:
        scores: (K,) float64, the columns that the outcome names: probabilities of the classes in
            their order, a value, a risk ....
        attention: (N,) float32, sums to one.
        attention_logits: (N,) float32, before the softmax.
    """

    scores: NDArray[np.float64]
    attention: NDArray[np.float32]
    attention_logits: NDArray[np.float32]


@dataclass(eq=False)
class SlideClassifier:
    """A head with the scaling of its features, and what it knows of its training.

    Attributes:
        name: Where it came from, for messages.
        id: Hash of the checkpoint; the identity of the run.
        record: Features, classes, grid and head.
        head: The network on the bag.
        mean: Mean (D,) to standardise features with; (0,) for none.
        deviation: Deviation (D,), likewise.
        encoder: Weights of the encoder by the network's own names; None where they must not be
            copied.
        facts: What else the model file says: licence, where to get weights, the model card.
        knows_patient: Whether a patient was trained or validated on.
        covariates: Weights (O, V) of the clinical covariates; None without them.
        calibration: What its validation part says of its probabilities, if known.
        uncalibrated: Why it is not known.

    Example:
        >>> model = load_model("model.safetensors")  # doctest: +SKIP
        >>> model.predict(features).scores  # doctest: +SKIP
        array([0.12, 0.88])
    """

    name: str
    id: str
    record: RunRecord
    head: MILHead
    mean: Tensor
    deviation: Tensor
    encoder: Mapping[str, Tensor] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    knows_patient: Callable[[str], bool] = lambda patient: False
    covariates: Tensor | None = None
    calibration: Calibration | None = None
    uncalibrated: str = "it was packaged without: run predict in its run folder, and package again"

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes or labels in the order of the scores; empty for other targets."""
        return self.record.target.classes

    @cached_property
    def outcome(self) -> Outcome:
        """What is predicted."""
        return outcome_of(self.record.target)

    @torch.inference_mode()
    def predict(
        self, features: ArrayLike | Tensor, covariates: ArrayLike | None = None
    ) -> SlideResult:
        """Scores and attention of one slide.

        Args:
            features: (N, D) features of its patches, as the encoder of the record gives them.
            covariates: (V,) its covariates, as `encode_covariates` gives them for the record.

        Raises:
            ConfigError: Features of another width, no patches, values that are not finite, or no
                covariates for a model that reads some.
        """
        if (covariates is None) != (self.covariates is None):
            names = ", ".join(spec.column for spec in self.record.covariates)
            needs = f"reads the covariates {names}: give them" if names else "reads no covariates"
            raise ConfigError(f"{self.name} {needs}")
        bag = torch.as_tensor(
            np.asarray(features) if not isinstance(features, Tensor) else features
        )
        width = self.record.features.width
        if bag.ndim != 2 or bag.shape[1] != width or not len(bag):
            raise ConfigError(
                f"features of shape {tuple(bag.shape)}, expected (patches, {width}) with at least "
                f"one patch: {self.name} reads {self.features_in_words()}"
            )
        bag = bag.float()  # (N, D)
        if len(self.mean):
            bag = (bag - self.mean) / self.deviation  # (N, D)
        output = self.head.eval()(bag, torch.tensor([len(bag)]))
        if self.covariates is not None:
            own = torch.as_tensor(np.asarray(covariates, np.float32))  # (V,)
            output = output._replace(logits=output.logits + own @ self.covariates.T)
        logits = output.attention if output.attention_logits is None else output.attention_logits
        if not output.logits.isfinite().all():
            raise ConfigError("the features hold NaN or infinite values: extract this slide again")
        scores = self.outcome.scores(output.logits).double().numpy()  # (1,) or (1, K)
        return SlideResult(
            self.outcome.to_columns(scores)[0],
            output.attention.float().numpy(),
            logits.float().numpy(),
        )

    def calibrated(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities (K,) at the temperature of the validation part.

        Raises:
            ConfigError: The model has no calibration; it says why.
        """
        return at_temperature(scores[None], self.require_calibration().temperature).reshape(-1)

    def p_values(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """How usual each class (K,) would be for a slide with these scores (K,).

        Classes above 0.1 are the set that holds the true one in 90 % of new patients.

        Raises:
            ConfigError: The model has no calibration; it says why.
        """
        return p_values(self.require_calibration(), scores[None]).reshape(-1)

    def require_calibration(self) -> Calibration:
        """Its calibration.

        Raises:
            ConfigError: It has none; it says why.
        """
        if self.outcome.task != "classification":
            raise ConfigError(
                f"{self.name} predicts {self.outcome.task}: calibration and prediction sets are "
                "for one of several classes only"
            )
        if self.calibration is None:
            raise ConfigError(f"{self.name} has no calibration: {self.uncalibrated}")
        return self.calibration

    def features_in_words(self) -> str:
        """Encoder and depth, for messages."""
        features = self.record.features
        return f"{features.encoder.name} at {', '.join(features.depths)}"


def classifier_from_state(
    name: str,
    run_id: str,
    record: RunRecord,
    state: Mapping[str, Tensor],
    *,
    allow_foreign: bool = False,
) -> SlideClassifier:
    """The model of a state dict, of a checkpoint or a model file."""
    head = build_head(record.head, allow_foreign=allow_foreign)(
        record.features.width, outcome_of(record.target).n_outputs
    )
    own = {k.removeprefix(_HEAD): v for k, v in state.items() if k.startswith(_HEAD)}
    try:
        head.load_state_dict(own)
    except RuntimeError as error:
        raise ConfigError(f"{name} does not hold the head that it names: {error}") from error
    weights = {k.removeprefix(_ENCODER): v for k, v in state.items() if k.startswith(_ENCODER)}
    seen = frozenset({*record.train_patients, *record.validation_patients})
    return SlideClassifier(
        name,
        run_id,
        record,
        head.eval(),
        state["feature_mean"],
        state["feature_deviation"],
        weights or None,
        knows_patient=lambda patient: patient in seen,
        covariates=state.get(COVARIATES),
    )


def without_patients(record: RunRecord) -> RunRecord:
    """The record as it may leave the house: who was trained on is told by hashes only."""
    tuned = record.features.tuned_on
    features = record.features
    if tuned is not None:
        bare = replace(tuned, train_patients=(), validation_patients=())
        features = replace(features, tuned_on=bare)
    return replace(record, features=features, train_patients=(), validation_patients=())
