"""Attention multiple-instance learning on bags of stored features."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchmetrics import MeanMetric
from typing_extensions import override

from histotransfer_pl.data.bags import BagBatch
from histotransfer_pl.data.cohort import shorten
from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.errors import ConfigError, SplitError, StoreError, StoreMismatchError
from histotransfer_pl.models.heads import AttentionHead, MILHead, MILOutput
from histotransfer_pl.models.pooling import segment_mean
from histotransfer_pl.tasks.metrics import Predictions, SlidePredictions, slide_metrics

HeadCallable = Callable[[int, int], MILHead]
"""Makes a head from the feature dimension D and the number of classes C."""

CHECKPOINT_KEY = "histotransfer_pl"
"""Where a checkpoint says on which features and classes it was trained."""


class SlidePrediction(dict[str, Tensor]):
    """Output of ``test_step`` and ``predict_step``.

    Keys: ``indices`` (S,), ``probabilities`` (S, C), ``lengths`` (S,), ``attention`` (sum N,) and
    ``attention_logits`` (sum N,); with a trained patch classifier also ``patch_logits``
    (sum N, C).
    """


def adam(params: Any) -> torch.optim.Optimizer:
    """Adam with the paper's learning rate, 1e-3."""
    return torch.optim.Adam(params, lr=1e-3)


class AttentionMIL(LightningModule):
    """Slide classifier on a bag of frozen patch features.

    Loss: ``alpha`` cross-entropy of the slide plus ``beta`` mean cross-entropy of its patches
    against the slide's label (HistoTransfer, Sharma et al. 2021).

    Args:
        head: Network on the bag; it is given the feature dimension and the number of classes.
            Default: the attention network of HistoTransfer.
        alpha: Weight of the slide loss, above 0.
        beta: Weight of the patch loss.
        class_weights: ``none``, ``balanced`` (inverse to the training slides of a class, mean
            1 over slides), or one weight a class, in the order of the classes.
        optimizer: Optimizer of the parameters.
        lr_scheduler: Learning-rate schedule, stepped each epoch; ReduceLROnPlateau watches
            ``val/loss``, or what Lightning's class of that name is told to.
    """

    def __init__(
        self,
        head: HeadCallable = AttentionHead,
        alpha: float = 1.0,
        beta: float = 0.0,
        class_weights: Literal["none", "balanced"] | list[float] = "none",
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        if alpha <= 0 or beta < 0:
            raise ConfigError(
                f"model.alpha is {alpha} and model.beta {beta}: alpha must be above 0, for without "
                "the slide loss the slide classifier and the attention learn nothing; beta from 0"
            )
        self.make_head = head
        self.alpha = alpha
        self.beta = beta
        self.class_weights = class_weights
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.training_loss = MeanMetric()
        self.validation = SlidePredictions()
        self.testing = SlidePredictions()
        self.head: MILHead
        self.class_weight: Tensor
        self.provenance: dict[str, Any] = {}

    @override
    def configure_model(self) -> None:
        """Build the head for the features and classes of the datamodule."""
        if hasattr(self, "head"):
            return
        data = feature_data(self)
        self.provenance = dict(data.provenance)
        self.head = self.make_head(data.in_features, len(data.classes))
        self.provenance["head"] = type(self.head).__name__
        if self.beta > 0:
            self._require_patch_head()
        elif self.head.patch_classifier is not None:
            # DDP waits for the gradient of every parameter that asks for one.
            self.head.patch_classifier.requires_grad_(False)
        self.register_buffer("class_weight", self._class_weight(data.class_counts()))

    @override
    def forward(self, features: Tensor, lengths: Tensor) -> MILOutput:
        """Classify packed bags: features (sum N, D), lengths (S,)."""
        output: MILOutput = self.head(features.float(), lengths)
        return output

    @torch.inference_mode()
    def attend(self, features: Tensor) -> Tensor:
        """Attention (N,) of the patches of one bag, features (N, D), on the CPU."""
        self.eval()
        lengths = torch.tensor([len(features)], device=self.device)
        attention: Tensor = self(features.to(self.device), lengths).attention.float().cpu()
        return attention

    def losses(self, output: MILOutput, batch: BagBatch) -> Tensor:
        """Loss of each slide (S,), weighted by its class; patches count by their slide."""
        slide = F.cross_entropy(output.logits, batch.labels, reduction="none")  # (S,)
        losses = self.alpha * slide  # (S,)
        if self.beta > 0 and output.patch_logits is not None:
            labels = batch.labels.repeat_interleave(batch.lengths)  # (sum N,)
            patch = F.cross_entropy(output.patch_logits, labels, reduction="none")  # (sum N,)
            losses = losses + self.beta * segment_mean(patch, batch.lengths)  # (S,)
        return self.class_weight[batch.labels] * losses

    @override
    def training_step(self, batch: BagBatch, batch_idx: int) -> Tensor:
        losses = self.losses(self(batch.features, batch.lengths), batch)  # (S,)
        self._require_finite(losses, batch)
        # A mean over slides and not over steps: the same on one rank and on several.
        self.training_loss.update(losses.detach(), weight=(batch.weights > 0).float())
        return (losses * batch.weights).sum()

    @override
    def on_train_epoch_end(self) -> None:
        self.log("train/loss", self.training_loss, prog_bar=True)

    @override
    def validation_step(self, batch: BagBatch, batch_idx: int) -> None:
        output = self(batch.features, batch.lengths)
        self._require_finite(output.logits, batch)
        probabilities = output.logits.float().softmax(-1)  # (S, C)
        self.validation.update(probabilities, batch.labels, batch.indices)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val", self.validation)

    @override
    def test_step(self, batch: BagBatch, batch_idx: int) -> SlidePrediction:
        prediction = self.predict_step(batch, batch_idx)
        self.testing.update(prediction["probabilities"], batch.labels, batch.indices)
        return prediction

    @override
    def on_test_epoch_end(self) -> None:
        self._log_epoch("test", self.testing)

    @override
    def predict_step(self, batch: BagBatch, batch_idx: int) -> SlidePrediction:
        output = self(batch.features, batch.lengths)
        self._require_finite(output.logits, batch)
        return self.prediction(output, batch.lengths, batch.indices)

    def prediction(self, output: MILOutput, lengths: Tensor, indices: Tensor) -> SlidePrediction:
        """What a head said of packed bags, as ``test`` and ``predict`` give it."""
        logits = output.attention if output.attention_logits is None else output.attention_logits
        prediction = SlidePrediction(
            indices=indices,
            probabilities=output.logits.float().softmax(-1),
            lengths=lengths,
            attention=output.attention.float(),
            attention_logits=logits.float(),
        )
        if self.beta > 0 and output.patch_logits is not None:
            prediction["patch_logits"] = output.patch_logits.float()
        return prediction

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer(self.parameters())
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        if not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            return {"optimizer": optimizer, "lr_scheduler": scheduler}
        monitor = getattr(scheduler, "monitor", "val/loss")  # torch's own class names none
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": monitor},
        }

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        data = feature_data(self)
        patients = {f"{part}_patients": data.patients(part) for part in ("train", "validation")}
        checkpoint[CHECKPOINT_KEY] = {**self.provenance, **patients}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_provenance(checkpoint.get(CHECKPOINT_KEY), self.provenance)
        refuse_trained_patients(checkpoint[CHECKPOINT_KEY], feature_data(self))

    def _log_epoch(self, name: str, collected: SlidePredictions) -> None:
        """Log the metrics of what all ranks predicted; each rank computes the same numbers."""
        self.last_predictions: Predictions = collected.compute()
        collected.reset()
        probabilities, labels, _ = self.last_predictions
        metrics = slide_metrics(probabilities, labels)
        metrics["loss"] = float(F.nll_loss(probabilities.clamp_min(1e-12).log(), labels))
        for key, value in metrics.items():
            self.log(f"{name}/{key}", value, prog_bar=key == "auroc", sync_dist=True)

    def _require_finite(self, values: Tensor, batch: BagBatch) -> None:
        """Refuse to go on with NaN: it would spread into the weights and every later metric.

        Raises:
            StoreError: If the features of a bag hold NaN or infinite values.
            ConfigError: If they do not, so that training itself diverged.
        """
        if values.isfinite().all():
            return
        names = feature_data(self).bags["bag_id"]
        pieces = batch.features.split(batch.lengths.tolist())
        for place, features in zip(batch.indices, pieces, strict=True):
            bad = (~features.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
            if bad:
                raise StoreError(
                    f"features of {names[int(place)]!r} hold NaN or infinite values in "
                    f"{len(bad)} of {len(features)} rows (first: {bad[0]}); run verify on the "
                    "store and extract that slide again"
                )
        raise ConfigError(
            f"the loss is not finite at {shorten([str(names[int(i)]) for i in batch.indices])} "
            "though the features are: training diverged; lower the learning rate "
            "(model.optimizer.init_args.lr)"
        )

    def _class_weight(self, counts: Tensor) -> Tensor:
        """Weight of each class (C,), mean 1 over the training slides."""
        if self.class_weights == "none":
            return torch.ones(len(counts))
        if self.class_weights == "balanced":
            return counts.sum() / (len(counts) * counts.clamp_min(1))
        if len(self.class_weights) != len(counts):
            raise ConfigError(
                f"model.class_weights has {len(self.class_weights)} numbers for {len(counts)} "
                f"classes: {self.provenance.get('classes')}"
            )
        weights = torch.tensor(self.class_weights)
        return weights * counts.sum() / (weights * counts).sum()

    def _require_patch_head(self) -> None:
        if self.head.patch_classifier is None:
            raise ConfigError(
                f"model.beta is {self.beta}, but {type(self.head).__name__} has no patch logits: "
                "set beta to 0 or take a head with patch_head: true"
            )


def feature_data(module: LightningModule) -> FeatureDataModule:
    """The trainer's datamodule, which must read features."""
    data = getattr(module.trainer, "datamodule", None)
    if not isinstance(data, FeatureDataModule):
        raise ConfigError(
            f"{type(module).__name__} needs FeatureDataModule as data, got {type(data).__name__}"
        )
    return data


def refuse_trained_patients(trained: dict[str, Any], data: FeatureDataModule) -> None:
    """Refuse a checkpoint that has seen patients of the test or validation part.

    Raises:
        SplitError: If a patient to evaluate was trained on, or one to test chose the epoch.
    """
    test, validation = set(data.patients("test")), set(data.patients("validation"))
    seen, chosen = set(trained["train_patients"]), set(trained["validation_patients"])
    leaked = sorted((seen & (test | validation)) | (chosen & test))
    if leaked:
        raise SplitError(
            f"the checkpoint was trained on {len(leaked)} patients that are in the validation or "
            f"test part here: {shorten(leaked)}; use its fold, n_folds and split_seed"
        )


def check_provenance(trained: object, present: dict[str, Any]) -> None:
    """Refuse a checkpoint that was trained on other features or classes.

    Raises:
        StoreMismatchError: It lists what differs.
    """
    if not isinstance(trained, dict):
        raise StoreMismatchError(
            "the checkpoint does not say on which features it was trained; give one that "
            "histotransfer_pl fit wrote"
        )
    differing = [
        f"{key}: checkpoint {trained.get(key)!r}, data {value!r}"
        for key, value in present.items()
        if trained.get(key) != value
    ]
    if differing:
        raise StoreMismatchError("the checkpoint belongs to other data: " + "; ".join(differing))
