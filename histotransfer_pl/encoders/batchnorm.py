"""BatchNorm statistics of the random baseline."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from histotransfer_pl.encoders.encoder import PatchEncoder
from histotransfer_pl.errors import EncoderError


@torch.no_grad()
def reestimate_batchnorm(encoder: PatchEncoder, batches: Iterable[Tensor]) -> int:
    """Replace the running statistics of every BatchNorm by those of patches, in place.

    A random network never saw an image: with its initial statistics (mean 0, variance 1) the
    activations of a deep one vanish or explode, and the baseline would measure that instead of
    what random features can do (Li & Plataniotis 2020; the report says that this was done).

    Args:
        encoder: The encoder; its mode is left as it was.
        batches: Training patches, uint8 (B, P, P, 3), on the encoder's device. The statistics are
            the plain mean over the batches, so they should be equally large.

    Returns:
        How many layers were re-estimated; 0 for a network without BatchNorm.
    """
    count = 0
    with reestimating(encoder) as layers:
        for batch in batches:
            encoder(batch)
            count += 1
    if count == 0:
        raise EncoderError("no batches to estimate BatchNorm statistics from; give at least one")
    return layers


@contextmanager
def reestimating(encoder: PatchEncoder) -> Iterator[int]:
    """While it lasts, what the encoder sees replaces the running statistics of its BatchNorms.

    For several encoders that see the same patches, which are then read once.

    Yields:
        How many layers are re-estimated.
    """
    layers = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    before: dict[nn.Module, tuple[bool, float | None]] = {
        layer: (layer.training, layer.momentum) for layer in layers
    }
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # cumulative mean instead of a moving one
            layer.train()
        yield len(layers)
    finally:
        for layer in layers:
            training, layer.momentum = before[layer]
            layer.train(training)
