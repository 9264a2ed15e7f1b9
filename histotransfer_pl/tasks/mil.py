"""Attention multiple-instance learning on bags of stored features."""

from collections.abc import Sequence

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from typing_extensions import override

from histotransfer_pl.data.bags import BagBatch, Bags, as_batch, require_finite
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.models.heads import AttentionHead, MILOutput
from histotransfer_pl.outcomes.kinds import outcome_of
from histotransfer_pl.outcomes.outcome import ClassWeights
from histotransfer_pl.records.encoder import EncoderSpec, FeatureSpec, WeightsRef
from histotransfer_pl.records.run import RunRecord
from histotransfer_pl.runs.predictions import class_target
from histotransfer_pl.tasks.slide_model import (
    HeadCallable,
    Loss,
    SlideModel,
    SlidePrediction,
    adamw,
    optional_data,
)


class AttentionMIL(SlideModel):
    """What is predicted of a slide from a bag of frozen patch features.

    Loss: ``alpha`` times that of the slide plus ``beta`` times the mean one of its patches against
    the slide's target (for classes the cross-entropy of HistoTransfer, Sharma et al. 2021).

    Args:
        head: Network on the bag; it is given the feature dimension and the number of outputs.
            Default: the attention network of HistoTransfer.
        alpha: Weight of the slide loss, above 0.
        beta: Weight of the patch loss.
        class_weights: ``none``, ``balanced`` (inverse to the training slides of a class, mean
            1 over slides), or one weight per class, in the order of the classes.
        optimizer: Optimizer of the parameters.
        lr_scheduler: Learning-rate schedule, stepped each epoch; ReduceLROnPlateau watches
            ``val/loss``, or what Lightning's class of that name is told to.
        loss: Loss of a task that has several: for survival ``cox`` (the usual one, over the slides
            of a step) or ``hazard`` (in intervals of time), for regression ``mse`` or ``huber``.
        in_features: Width D of the features; only in a script without ``FeatureDataModule``.
        classes: Names of the classes, of two the positive one last; likewise.

    Example:
        >>> import torch
        >>> model = AttentionMIL(in_features=8, classes=["normal", "tumour"])
        >>> model(torch.zeros(5, 8), torch.tensor([3, 2])).logits.shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        head: HeadCallable = AttentionHead,
        alpha: float = 1.0,
        beta: float = 0.0,
        class_weights: ClassWeights = "none",
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        in_features: int | None = None,
        classes: Sequence[str] | None = None,
        loss: Loss = "default",
    ) -> None:
        super().__init__(head, alpha, beta, class_weights, optimizer, lr_scheduler, loss)
        if (in_features is None) != (classes is None):
            raise ConfigError("give in_features and classes together, or neither")
        if in_features is not None and classes is not None:
            target = class_target(tuple(classes))
            self.build(in_features, outcome_of(target))
            encoder = EncoderSpec("", "", WeightsRef("imported"))  # a script knows no store
            self.record = RunRecord(FeatureSpec(encoder, (), in_features), target, self.head.spec)

    @override
    def forward(
        self, features: Tensor, lengths: Tensor, covariates: Tensor | None = None
    ) -> MILOutput:
        """Classify packed bags: features (sum N, D), lengths (S,), covariates (S, V)."""
        if not hasattr(self, "head"):
            raise ConfigError(
                "the head is not built yet: give AttentionMIL in_features and classes, or load a "
                "checkpoint with load_from_checkpoint"
            )
        return self.classify(features, lengths, covariates)

    @override
    def training_step(self, batch: Bags, batch_idx: int) -> Tensor:
        batch = as_batch(batch)
        output = self(batch.features, batch.lengths, batch.covariates)
        return self.weighted_loss(output, batch)

    @override
    def validation_step(self, batch: Bags, batch_idx: int) -> None:
        batch = as_batch(batch)
        prediction = self.predict_step(batch, batch_idx)
        self.validation.update(prediction["outputs"], batch.targets, batch.indices)

    @override
    def test_step(self, batch: Bags, batch_idx: int) -> SlidePrediction:
        batch = as_batch(batch)
        prediction = self.predict_step(batch, batch_idx)
        self.testing.update(prediction["outputs"], batch.targets, batch.indices)
        return prediction

    @override
    def predict_step(self, batch: Bags, batch_idx: int) -> SlidePrediction:
        batch = as_batch(batch)
        output = self(batch.features, batch.lengths, batch.covariates)
        if not output.logits.isfinite().all():
            self._refuse(batch)
        return self.prediction(output, batch.lengths, batch.indices)

    @override
    def _refuse(self, batch: BagBatch) -> None:
        """Name the slide whose features are to blame, rather than the learning rate."""
        pieces = batch.features.split(batch.lengths.tolist())
        for index, features in zip(batch.indices, pieces, strict=True):
            stored = optional_data(self) is not None
            require_finite(features, self.bag_names(index[None]), stored=stored)
        super()._refuse(batch)
