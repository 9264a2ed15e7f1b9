"""Parameter groups and learning-rate schedules of fine-tuning."""

import logging
import math
from typing import Any, Literal

from timm.optim._param_groups import param_groups_weight_decay
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from histotransfer_pl.encoders.adapters import LoraSettings, trainable_share
from histotransfer_pl.encoders.config import Method
from histotransfer_pl.encoders.encoder import PatchEncoder
from histotransfer_pl.errors import ConfigError

Schedule = Literal["constant", "cosine"]
BatchNormMode = Literal["frozen_statistics", "frozen", "trained"]

_log = logging.getLogger(__name__)


def parameter_groups(
    encoder: nn.Module, head: nn.Module, encoder_lr: float, head_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Trainable parameters with their own learning rates; biases and norms do not decay."""
    groups = []
    for module, lr in ((encoder, encoder_lr), (head, head_lr)):
        for group in param_groups_weight_decay(module, weight_decay):
            if group["params"]:
                groups.append({**group, "lr": lr})
    return groups


def lr_factor(step: int, total_steps: int, warmup_steps: int, schedule: Schedule) -> float:
    """Learning rate of a step (from 0) as a share of its full value.

    It rises linearly over the warm-up, and then stays or follows half a cosine down to 0.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def choose_trained(
    encoder: PatchEncoder,
    tuning: Method,
    freeze_until: str | None,
    last_blocks: int,
    lora: LoraSettings,
) -> None:
    """Say which parameters of an encoder train, and put adapters beside its layers for ``lora``.

    Raises:
        ConfigError: If no block is left to train.
        EncoderError: If there is no such block or layer.
    """
    if tuning == "last_blocks":
        blocks = [d for d in encoder.trunk.depths if not d.startswith(("norm", "projection"))]
        if freeze_until is not None or not 0 < last_blocks < len(blocks):
            raise ConfigError(
                f"model.last_blocks is {last_blocks} of {len(blocks)} blocks and "
                f"model.freeze_until {freeze_until}: give 1 to {len(blocks) - 1}, and one of both"
            )
        freeze_until = blocks[-last_blocks - 1]
    if tuning == "lora":
        behind = None if freeze_until is None else encoder.trunk.keys_behind(freeze_until)
        encoder.adapt(lora, behind)
    elif tuning == "frozen":
        encoder.requires_grad_(False)
    else:
        freeze_blocks(encoder, freeze_until)
    _log.info(
        "tuning %s: %.2f %% of the encoder's parameters train",
        *(tuning, 100 * trainable_share(encoder)),
    )


def freeze_blocks(encoder: PatchEncoder, freeze_until: str | None) -> None:
    """Stop the training of all blocks up to ``freeze_until``, and of what lies before them.

    Raises:
        EncoderError: If there is no such block before the cut.
        ConfigError: If the network cannot be frozen by blocks.
    """
    if freeze_until is None:
        return
    behind = encoder.trunk.keys_behind(freeze_until)
    if not behind and freeze_until != encoder.trunk.depths[-1]:
        raise ConfigError(
            f"{encoder.name} does not say which weights belong to {freeze_until!r}: leave "
            "model.freeze_until empty for this network"
        )
    for name, parameter in encoder.network.named_parameters():
        parameter.requires_grad_(name in behind)


def set_batchnorm(encoder: nn.Module, mode: BatchNormMode) -> None:
    """Put the BatchNorm layers of an encoder in training into the state of ``mode``.

    ``frozen_statistics`` normalises with the running statistics and trains scale and shift (the
    paper), ``frozen`` trains neither, ``trained`` uses and updates the statistics of the batch.
    A layer in a frozen block always keeps its statistics.
    """
    for module in encoder.modules():
        if isinstance(module, _BatchNorm):
            affine = [p for p in (module.weight, module.bias) if p is not None]
            if mode == "frozen":
                for parameter in affine:
                    parameter.requires_grad_(False)
            frozen = not any(parameter.requires_grad for parameter in affine)
            if mode != "trained" or frozen:
                module.eval()
