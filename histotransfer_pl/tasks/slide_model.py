"""What every model of slides shares: its head, loss, metrics, predictions and record."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import MeanMetric
from typing_extensions import override

from histotransfer_pl.data.bags import BagBatch
from histotransfer_pl.data.covariates import width_of
from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.data.refusals import refuse_trained_patients
from histotransfer_pl.errors import ConfigError, shorten
from histotransfer_pl.models.build import build_head
from histotransfer_pl.models.heads import AttentionHead, MeanPoolHead, MILHead, MILOutput
from histotransfer_pl.models.pooling import segment_mean, segment_spread
from histotransfer_pl.outcomes.kinds import outcome_of, outcome_to_train
from histotransfer_pl.outcomes.outcome import ClassWeights, Outcome
from histotransfer_pl.records.run import RunRecord
from histotransfer_pl.runs.checkpoints import RECORD, VERSION, check_record, read_record
from histotransfer_pl.tasks.finite import FiniteCheck
from histotransfer_pl.tasks.metrics import Predictions, SlidePredictions, slide_metrics

HeadCallable = Callable[[int, int], MILHead]
"""Makes a head from the feature dimension D and the number of outputs O."""

Loss = Literal["default", "cox", "hazard", "mse", "huber"]


class SlidePrediction(dict[str, Tensor]):
    """Output of ``test_step`` and ``predict_step``.

    Keys: ``indices`` (S,), ``outputs`` (S, O), ``scores`` (S,) or (S, K), ``lengths`` (S,),
    ``attention`` (sum N,) and ``attention_logits`` (sum N,); with a trained patch classifier also
    ``patch_logits`` (sum N, O).
    """


def adamw(params: Any) -> torch.optim.Optimizer:
    """AdamW with the learning rate that docs/results/defaults.md chose, 5e-4.

    On a GPU one kernel updates all parameters, where starting kernels is what a short step costs.
    """
    params = list(params)
    fused = all(isinstance(item, Tensor) and item.is_cuda for item in params) or None
    return torch.optim.AdamW(params, lr=5e-4, weight_decay=0.01, fused=fused)


class SlideModel(LightningModule):
    """Base of the models of slides; a subclass says what a batch is and how it is evaluated.

    Loss: ``alpha`` times that of the slide plus ``beta`` times the mean one of its patches against
    the slide's target (HistoTransfer, Sharma et al. 2021, for classes). Arguments are those of
    ``AttentionMIL``.
    """

    def __init__(
        self,
        head: HeadCallable = AttentionHead,
        alpha: float = 1.0,
        beta: float = 0.0,
        class_weights: ClassWeights = "none",
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        loss: Loss = "default",
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
        self.class_weights: ClassWeights = class_weights
        self.loss = loss
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.training_loss = MeanMetric(nan_strategy="disable")  # each loss is looked at by itself
        self._noted: list[tuple[Tensor, Tensor]] = []  # losses (S,), weights (S,)
        self.validation = SlidePredictions()
        self.testing = SlidePredictions()
        self.finite = FiniteCheck()
        self.record: RunRecord | None = None
        self.head: MILHead
        self.outcome: Outcome
        self.covariate_layer: nn.Linear | None
        self.class_weight: Tensor
        self.feature_mean: Tensor
        self.feature_deviation: Tensor

    @override
    def configure_model(self) -> None:
        """Build the head for the features and the target of the datamodule."""
        # Without a trainer, in load_from_checkpoint, it is built from the checkpoint's record.
        if not hasattr(self, "head") and self._trainer is not None:
            data = feature_data(self)
            self.build_for(data, data.standardize)
            if data.means:
                self._require_mean_head()
            self.record = self.record_of(data)

    def build_for(self, data: FeatureDataModule, standardized: bool) -> None:
        """Build the head for a datamodule, and take from its training part what it teaches."""
        spec, targets = data.target_spec, data.training_targets()
        # A model from elsewhere is tested as it was trained.
        outcome = outcome_to_train(spec, self.loss, targets) if len(targets) else outcome_of(spec)
        covariates = width_of(data.covariate_specs)
        self.build(data.in_features, outcome, standardized, targets, covariates)

    def record_of(self, data: FeatureDataModule) -> RunRecord:
        """What is known of this training."""
        return replace(data.record(self.head.spec), target=self.outcome.spec)

    def build(
        self,
        in_features: int,
        outcome: Outcome,
        standardized: bool = False,
        targets: NDArray[Any] | None = None,
        n_covariates: int = 0,
    ) -> None:
        """Build the head.

        Args:
            in_features: Width D of the features.
            outcome: What is predicted.
            standardized: Whether features are scaled; by how much follows before training.
            targets: Targets of the training part, for balanced weights.
            n_covariates: Numbers V that clinical covariates are.
        """
        self.outcome = outcome
        self.head = self.make_head(in_features, outcome.n_outputs)
        if self.beta > 0:
            self._require_patch_head()
        elif self.head.patch_classifier is not None:
            # DDP waits for the gradient of every parameter that asks for one.
            self.head.patch_classifier.requires_grad_(False)
        # Beside the bag's vector they would enter the last, linear layer: a sum, for every head.
        self.covariate_layer = None
        if n_covariates:
            self.covariate_layer = nn.Linear(n_covariates, outcome.n_outputs, bias=False)
            nn.init.zeros_(self.covariate_layer.weight)
        known = np.empty(0, np.int64) if targets is None else targets
        weights = outcome.weights(self.class_weights, known)  # (C,) or (0,)
        self.register_buffer("class_weight", torch.from_numpy(weights))
        scaling = torch.zeros(in_features if standardized else 0)  # (D,) or (0,)
        self.register_buffer("feature_mean", scaling)
        self.register_buffer("feature_deviation", scaling + 1)

    @override
    def on_fit_start(self) -> None:
        """Learn the scaling of the features from the training part, once per run."""
        if len(self.feature_mean) and self.trainer.ckpt_path is None:
            mean, deviation = feature_data(self).training_statistics()  # (D,), (D,)
            self.feature_mean.copy_(mean)
            self.feature_deviation.copy_(deviation)

    def classify(
        self, features: Tensor, lengths: Tensor, covariates: Tensor | None = None
    ) -> MILOutput:
        """Classify packed bags of features (sum N, D) as they are stored.

        Args:
            features: (sum N, D).
            lengths: (S,) patches of each bag.
            covariates: (S, V) clinical covariates.
        """
        features = features.float()
        if len(self.feature_mean):
            features = (features - self.feature_mean) / self.feature_deviation  # (sum N, D)
        output: MILOutput = self.head(features, lengths)
        if self.covariate_layer is None or covariates is None:
            return output
        return output._replace(logits=output.logits + self.covariate_layer(covariates))

    @torch.inference_mode()
    def attend(self, features: Tensor) -> Tensor:
        """Attention (N,) of the patches of one bag, features (N, D), on the CPU."""
        self.eval()
        lengths = torch.tensor([len(features)])
        return self.classify(features.to(self.device), lengths).attention.float().cpu()

    def losses(self, output: MILOutput, batch: BagBatch) -> Tensor:
        """Loss of each slide (S,); patches count by their slide."""
        losses = self.alpha * self._losses(output.logits, batch.targets)  # (S,)
        if self.beta > 0 and output.patch_logits is not None:
            targets = segment_spread(batch.targets, batch.lengths)  # (sum N,) or (sum N, K)
            patch = self._losses(output.patch_logits, targets)  # (sum N,)
            losses = losses + self.beta * segment_mean(patch, batch.lengths)  # (S,)
        return losses

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.outcome.losses(outputs, targets, self.class_weight)

    def weighted_loss(self, output: MILOutput, batch: BagBatch) -> Tensor:
        """The loss of a training step, also noted for the mean of the epoch."""
        losses = self.losses(output, batch)  # (S,)
        logits = output.logits.detach().sum(dtype=torch.float32)  # ()
        total = logits + losses.detach().sum(dtype=torch.float32)  # ()
        self.finite.note(total, partial(self._refuse, batch))
        self._noted.append((losses.detach(), batch.weights))
        return (losses * batch.weights).sum()

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout draws from the global state, which a resumed run would have in another place.
        data = optional_data(self)
        if data is not None:
            numbers = (self.current_epoch, batch_idx, self.global_rank)
            _seed(self.device, data.draw_seed(*numbers))

    @override
    def on_train_epoch_end(self) -> None:
        self.finite.settle()
        if self._noted:
            losses, weights = map(torch.cat, zip(*self._noted, strict=True))  # (sum S,) each
            # A mean over slides and not over steps: the same on one rank and on several.
            self.training_loss.update(losses, weight=(weights > 0).float())
            self._noted.clear()
        self.log("train/loss", self.training_loss, prog_bar=True)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val", self.validation)

    @override
    def on_test_epoch_end(self) -> None:
        self._log_epoch("test", self.testing)

    def prediction(self, output: MILOutput, lengths: Tensor, indices: Tensor) -> SlidePrediction:
        """What a head said of packed bags, as ``test`` and ``predict`` give it."""
        if not output.logits.isfinite().all():
            self._refuse_outputs(indices)
        logits = output.attention if output.attention_logits is None else output.attention_logits
        prediction = SlidePrediction(
            indices=indices,
            outputs=output.logits.float(),
            scores=self.outcome.scores(output.logits),
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
        # Only ReduceLROnPlateau watches it, and torch's own class of that name says no metric.
        monitor = getattr(scheduler, "monitor", "val/loss")
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": monitor},
        }

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.finite.settle()
        if self.record is not None:
            checkpoint[RECORD] = {"version": VERSION, "record": self.record.to_json()}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = read_record(checkpoint)
        data = optional_data(self)
        if data is not None and self.record is not None:
            check_record(trained, self.record)
            test, validation = set(data.patients("test")), set(data.patients("validation"))
            refuse_trained_patients(trained, validation, test)
        elif not hasattr(self, "head"):  # load_from_checkpoint, without a trainer
            self.make_head = build_head(trained.head)
            self.build(
                trained.features.width,
                outcome_of(trained.target),
                trained.standardized,
                n_covariates=width_of(trained.covariates),
            )
        self.record = trained
        self.outcome = outcome_of(trained.target)

    def _log_epoch(self, name: str, collected: SlidePredictions) -> None:
        """Log the metrics of what all ranks predicted; each rank computes the same numbers."""
        self.last_predictions: Predictions = collected.compute()
        collected.reset()
        outputs, targets, _ = self.last_predictions
        metrics = slide_metrics(self.outcome, outputs, targets)
        # Over all slides of the part at once, which is what Cox's likelihood compares.
        even = torch.ones_like(self.class_weight)
        metrics["loss"] = float(self.outcome.losses(outputs, targets, even).mean())
        for key, value in metrics.items():
            shown = key == self.outcome.watched
            self.log(f"{name}/{key}", value, prog_bar=shown, sync_dist=True)

    def bag_names(self, indices: Tensor) -> str:
        """The bags at some places (S,), for messages."""
        data = optional_data(self)
        names = indices.tolist() if data is None else data.bags["bag_id"][indices.tolist()]
        return shorten([str(name) for name in names])

    def _refuse(self, batch: BagBatch) -> None:
        """Say whose values are not finite: they would spread into the weights and every metric."""
        self._refuse_outputs(batch.indices)

    def _refuse_outputs(self, indices: Tensor) -> NoReturn:
        raise ConfigError(
            f"the output is not finite at {self.bag_names(indices)}: training diverged; lower "
            f"{self._learning_rates}"
        )

    @property
    def _learning_rates(self) -> str:
        return "the learning rate (model.optimizer.init_args.lr)"

    def _require_mean_head(self) -> None:
        if not isinstance(self.head, MeanPoolHead) or len(self.head.trunk):
            raise ConfigError(
                f"data.means is true, but {type(self.head).__name__} does not average the features "
                "as they are: take MeanPoolHead with hidden: [], or extract this depth in full"
            )

    def _require_patch_head(self) -> None:
        if not self.outcome.per_patch:
            raise ConfigError(
                f"model.beta is {self.beta}, but patches have no {self.outcome.task} of their own: "
                "set beta to 0"
            )
        if self.head.patch_classifier is None:
            raise ConfigError(
                f"model.beta is {self.beta}, but {type(self.head).__name__} has no patch logits: "
                "set beta to 0 or take a head with patch_head: true"
            )


def _seed(device: torch.device, seed: int) -> None:
    """Seed the host and the device in use.

    ``torch.manual_seed`` notes the stack for every backend that has not started: a sixth of a
    short step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def optional_data(module: LightningModule) -> FeatureDataModule | None:
    """The trainer's datamodule if it is one of ours; None in training scripts and without one."""
    trainer = module._trainer
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, FeatureDataModule) else None


def feature_data(module: LightningModule) -> FeatureDataModule:
    """The trainer's datamodule, which must read features."""
    data = optional_data(module)
    if data is None:
        found = getattr(module.trainer, "datamodule", None)
        raise ConfigError(
            f"{type(module).__name__} needs FeatureDataModule as data, got {type(found).__name__}; "
            "in a training script with a DataLoader of bags give it in_features and classes"
        )
    return data


def slide_model(module: LightningModule) -> SlideModel:
    """The module as a model of slides."""
    if not isinstance(module, SlideModel):
        raise ConfigError(f"{type(module).__name__} predicts no slides: give AttentionMIL")
    return module
