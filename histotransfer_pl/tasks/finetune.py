"""End-to-end training of encoder and head on the patches that stage 1 attended to."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from histotransfer_pl.data.bag_pieces import BagPieces
from histotransfer_pl.data.bags import BagBatch
from histotransfer_pl.data.refusals import refuse_trained_patients
from histotransfer_pl.data.topk import TopKPatchDataModule
from histotransfer_pl.encoders.adapters import LoraSettings, frozen_keys
from histotransfer_pl.encoders.config import Arguments, EncoderConfig, Method, PoolingChoice
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.errors import ConfigError, StoreMismatchError
from histotransfer_pl.models.heads import AttentionHead, MILOutput
from histotransfer_pl.outcomes.outcome import ClassWeights
from histotransfer_pl.tasks.open_bags import (
    Attended,
    OpenBags,
    fill_unreadable,
    most_attended,
    no_prediction,
)
from histotransfer_pl.tasks.optimization import (
    BatchNormMode,
    Schedule,
    choose_trained,
    lr_factor,
    parameter_groups,
    set_batchnorm,
)
from histotransfer_pl.tasks.out_of_memory import explain_out_of_memory
from histotransfer_pl.tasks.refresh import REFRESHABLE, rank_all
from histotransfer_pl.tasks.slide_model import (
    HeadCallable,
    Loss,
    SlideModel,
    SlidePrediction,
    adamw,
)
from histotransfer_pl.tasks.transfer import Stage1, check_stage1, read_stage1, transfer_head

SHOWN_PATCHES = 8
"""Most attended patches of each validation bag that are noted for the dashboard."""


class TopKFineTuner(SlideModel):
    """Encoder and head trained together on selected patches, evaluated on all patches.

    Loss, metrics and predictions are those of ``AttentionMIL``; so is the head, which starts from
    a stage-1 run. The encoder starts from the weights whose features stage 1 saw.

    Args:
        stage1: Run folder or checkpoint of stage 1.
        encoder: Name in the catalogue, as in the extraction.
        weights: ``default``, ``random``, or the path of a checkpoint, as in the extraction.
        seed: Seed of random weights.
        input_px: Side to which patches are resized on the device, as in the extraction.
        allow_download: Whether missing weights may be fetched from the hub.
        pooling: As in the extraction; for ViTs.
        head: Network on the bag, with the settings of stage 1.
        alpha: Weight of the slide loss.
        beta: Weight of the patch loss.
        class_weights: ``none``, ``balanced``, or one weight per class.
        encoder_lr: Learning rate of the encoder.
        head_lr: Learning rate of the head.
        weight_decay: Weight decay of both; biases and norms are left out.
        warmup_steps: Steps over which the learning rates rise.
        schedule: What follows the warm-up: ``constant`` or ``cosine``.
        optimizer: Optimizer of the parameter groups, whose ``lr`` and ``weight_decay`` are those
            above and not its own.
        tuning: What of the encoder is trained: ``full``, ``last_blocks``, ``lora`` (low-rank
            adapters, saved alone), or ``frozen`` (the head only).
        last_blocks: How many blocks ``last_blocks`` trains, counted from the end.
        lora: Rank, scale and layers of the adapters.
        model_args: Arguments of the network, as in the extraction.
        freeze_until: Keep the blocks up to this one as they are.
        batchnorm: ``frozen_statistics`` (scale and shift train), ``frozen`` or ``trained``.
        chunk_patches: Patches encoded at once.
        checkpoint_activations: Keep the activations of one chunk only and compute them again in
            the backward pass: less memory for a third more time.
        refresh_every_n_epochs: Rank the candidates anew with the current encoder and head every
            so many epochs; 0 keeps the selection.
    """

    def __init__(
        self,
        stage1: Path,
        encoder: str,
        weights: str = "default",
        seed: int = 0,
        input_px: int | None = None,
        allow_download: bool = False,
        pooling: PoolingChoice = "default",
        head: HeadCallable = AttentionHead,
        alpha: float = 1.0,
        beta: float = 0.0,
        class_weights: ClassWeights = "none",
        encoder_lr: float = 1e-5,
        head_lr: float = 1e-5,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        schedule: Schedule = "constant",
        optimizer: OptimizerCallable = adamw,
        freeze_until: str | None = None,
        batchnorm: BatchNormMode = "frozen_statistics",
        chunk_patches: int = 64,
        checkpoint_activations: bool = False,
        refresh_every_n_epochs: int = 0,
        tuning: Method = "full",
        last_blocks: int = 2,
        lora: LoraSettings = LoraSettings(),
        model_args: Arguments | None = None,
        loss: Loss = "default",
    ) -> None:
        super().__init__(head, alpha, beta, class_weights, optimizer, loss=loss)
        if chunk_patches < 1 or refresh_every_n_epochs < 0 or warmup_steps < 0:
            raise ConfigError(
                f"model.chunk_patches is {chunk_patches}, model.warmup_steps {warmup_steps} and "
                f"model.refresh_every_n_epochs {refresh_every_n_epochs}: from 1, 0 and 0 up"
            )
        if batchnorm == "trained" and checkpoint_activations:
            raise ConfigError(
                "model.batchnorm trained updates its statistics twice where "
                "model.checkpoint_activations computes a chunk again: choose one of them"
            )
        self.stage1 = Path(stage1)
        self.encoder_config = EncoderConfig(
            encoder,
            weights,
            seed,
            input_px=input_px,
            allow_download=allow_download,
            pooling=pooling,
            model_args=dict(model_args or {}),
        )
        self.tuning: Method = tuning
        self.last_blocks = last_blocks
        self.lora = lora
        self.encoder_lr = encoder_lr
        self.head_lr = head_lr
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.schedule = schedule
        self.freeze_until = freeze_until
        self.batchnorm: BatchNormMode = batchnorm
        self.chunk_patches = chunk_patches
        self.checkpoint_activations = checkpoint_activations
        self.refresh_every_n_epochs = refresh_every_n_epochs
        self.open_bags = OpenBags()
        self.attended: Attended = {}
        self._refreshed = 0
        self.encoder: PatchEncoder

    @override
    def configure_model(self) -> None:
        """Build head and encoder, and give them what stage 1 left."""
        if hasattr(self, "head"):
            return
        data = topk_data(self)
        stage1 = read_stage1(self.stage1)
        self._check_selection(stage1, data)
        standardized = len(stage1.mean) > 0
        self.build_for(data, standardized)
        record = replace(self.record_of(data), standardized=standardized)
        check_stage1(stage1, record)
        refuse_trained_patients(
            stage1.record, set(data.patients("validation")), set(data.patients("test"))
        )
        transfer_head(stage1, self.head)
        self.feature_mean.copy_(stage1.mean)
        self.feature_deviation.copy_(stage1.deviation)
        self.record = replace(record, base=stage1.sha256)
        self.depth = stage1.record.features.depths[0]
        self.encoder_config.depths = [self.depth]
        self.encoder = build_encoder(self.encoder_config)
        self._check_features(data)
        choose_trained(self.encoder, self.tuning, self.freeze_until, self.last_blocks, self.lora)
        self.train()  # an encoder comes in eval mode, and the Trainer leaves modes as they are

    @override
    def on_fit_start(self) -> None:
        """The scaling of the features is that of stage 1."""

    @override
    def train(self, mode: bool = True) -> Self:
        """Switch the mode; BatchNorm layers follow ``batchnorm`` instead."""
        super().train(mode)
        if mode and hasattr(self, "encoder"):
            set_batchnorm(self.encoder, self.batchnorm)
        return self

    @override
    def forward(self, features: Tensor, lengths: Tensor) -> MILOutput:
        """Classify packed bags of patches: uint8 (sum N, P, P, 3), lengths (S,)."""
        return self.classify(self.encode(features), lengths)

    def encode(self, patches: Tensor) -> Tensor:
        """Features (B, D) of patches (B, P, P, 3), chunk by chunk."""
        chunks = []
        for chunk in torch.split(patches, self.chunk_patches):
            if self.checkpoint_activations and torch.is_grad_enabled() and self.training:
                chunks.append(checkpoint(self._encode_chunk, chunk, use_reentrant=False))
            else:
                chunks.append(self._encode_chunk(chunk))
        return torch.cat(chunks).float()  # (B, D)

    @override
    def on_train_epoch_start(self) -> None:
        every, epoch = self.refresh_every_n_epochs, self.current_epoch
        if every and epoch and epoch % every == 0 and self._refreshed != epoch:
            self.refresh_selection()
            self._refreshed = epoch

    on_train_start = on_train_epoch_start  # Lightning leaves that out in the epoch it resumes

    @override
    def training_step(self, batch: BagBatch, batch_idx: int) -> Tensor:
        with explain_out_of_memory(self._advice):
            return self.weighted_loss(self(batch.features, batch.lengths), batch)

    @override
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        with explain_out_of_memory(self._advice):
            super().backward(loss, *args, **kwargs)

    @override
    def on_validation_epoch_start(self) -> None:
        self.open_bags.clear()
        self.attended.clear()

    @override
    def on_test_epoch_start(self) -> None:
        self.open_bags.clear()

    on_predict_epoch_start = on_test_epoch_start

    @override
    def validation_step(self, batch: BagPieces, batch_idx: int) -> None:
        prediction, targets = self._evaluate(batch)
        self.validation.update(prediction["outputs"], targets, prediction["indices"])
        self.attended |= most_attended(prediction, SHOWN_PATCHES)

    @override
    def test_step(self, batch: BagPieces, batch_idx: int) -> SlidePrediction:
        prediction, targets = self._evaluate(batch)
        self.testing.update(prediction["outputs"], targets, prediction["indices"])
        return prediction

    @override
    def predict_step(self, batch: BagPieces, batch_idx: int) -> SlidePrediction:
        return self._evaluate(batch)[0]

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer(
            parameter_groups(
                self.encoder, self.head, self.encoder_lr, self.head_lr, self.weight_decay
            )
        )
        total = self.trainer.estimated_stepping_batches if self.schedule == "cosine" else 0
        if math.isinf(total):
            raise ConfigError("model.schedule cosine needs an end: give trainer.max_epochs")
        schedule = LambdaLR(
            optimizer, lambda step: lr_factor(step, int(total), self.warmup_steps, self.schedule)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Of an encoder with adapters only what trains: its base is a file, named by its hash."""
        super().on_save_checkpoint(checkpoint)
        if self.encoder.adapter is not None:
            base = frozen_keys(self.encoder)
            state = checkpoint["state_dict"]
            kept = {k: v for k, v in state.items() if k.removeprefix("encoder.") not in base}
            checkpoint["state_dict"] = kept

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if hasattr(self, "encoder") and self.encoder.adapter is not None:
            checkpoint["state_dict"] = self.state_dict() | checkpoint["state_dict"]

    def refresh_selection(self) -> None:
        """Rank the candidates with the encoder and head as they are now."""
        training = self.training
        self.eval()
        rank_all(self, topk_data(self), self.trainer)
        self.train(training)

    @property
    @override
    def _learning_rates(self) -> str:
        return "model.encoder_lr or model.head_lr"

    @property
    def _advice(self) -> str:
        data = topk_data(self)
        if not self.training:
            return (
                f"lower model.chunk_patches (now {self.chunk_patches}) or data.eval_patches (now "
                f"{data.eval_patches}), or take --trainer.precision bf16-mixed"
            )
        return (
            f"lower data.batch_size (now {data.batch_size}) or model.chunk_patches (now "
            f"{self.chunk_patches}), set model.checkpoint_activations to true, take "
            f"--trainer.precision bf16-mixed, or select fewer patches (k is {data.k})"
        )

    def _encode_chunk(self, patches: Tensor) -> Tensor:
        features: Tensor = self.encoder(patches)[self.depth]
        return features

    def _evaluate(self, batch: BagPieces) -> tuple[SlidePrediction, Tensor]:
        """Predictions and targets of the bags that end in this batch."""
        with explain_out_of_memory(self._advice):
            if len(batch.patches):
                features = self.encode(batch.patches)  # (B, D)
            else:
                features = torch.empty(0, self.head.in_features, device=self.device)
        bags = self.open_bags.add(batch, features)
        if bags is None:
            return no_prediction(self.outcome, self.device), batch.targets[:0]
        output = self.classify(bags.features, bags.counts)
        prediction = self.prediction(output, bags.counts, bags.indices)
        return fill_unreadable(prediction, bags), bags.targets

    def _check_selection(self, stage1: Stage1, data: TopKPatchDataModule) -> None:
        facts = data.selection_facts
        if facts["checkpoint_sha256"] != stage1.sha256:
            raise StoreMismatchError(
                f"selection {data.selection!r} was made with {facts['checkpoint']} "
                f"({str(facts['checkpoint_sha256'])[:12]}), which is not the checkpoint "
                f"{stage1.path} ({stage1.sha256[:12]}): run select --run_dir with the run of "
                "model.stage1"
            )
        if self.refresh_every_n_epochs and facts["rule"] not in REFRESHABLE:
            raise ConfigError(
                f"a selection by rule {facts['rule']} cannot be refreshed, only "
                f"{' and '.join(REFRESHABLE)}: set model.refresh_every_n_epochs to 0"
            )

    def _check_features(self, data: TopKPatchDataModule) -> None:
        """The encoder must be the one whose features stage 1 saw."""
        stored, own = data.features.encoder, self.encoder.spec
        if not stored.model_args:  # stores of earlier releases do not know them
            own = replace(own, model_args={})
        wrong = stored.differs(own, ignore=("weights.kind", "weights.origin", "name"))
        if wrong:
            raise StoreMismatchError(
                f"model.encoder is not the network whose features ({data.arrays[0]}) stage 1 saw "
                f"(there, not here): {'; '.join(wrong)}. Give encoder, weights, seed, input_px and "
                "pooling as in the extraction"
            )


def topk_data(module: LightningModule) -> TopKPatchDataModule:
    """The trainer's datamodule, which must read selected patches."""
    data = getattr(module.trainer, "datamodule", None)
    if not isinstance(data, TopKPatchDataModule):
        raise ConfigError(
            f"{type(module).__name__} needs TopKPatchDataModule as data, got {type(data).__name__}"
        )
    return data
