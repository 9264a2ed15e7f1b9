"""Colour alone: the control that says what a patch tells without any network."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from histotransfer_pl.encoders.entry import EncoderEntry, WeightsSource
from histotransfer_pl.encoders.truncation import Stage, Trunk

_DEPTH = "channels"

COLOUR_ENTRY = EncoderEntry(
    name="colour",
    architecture="colour",
    domain="other",
    source=WeightsSource(files=(), page="it has no weights"),
    licence="none needed",
    citation="mean and standard deviation of red, green and blue",
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)
"""Not in the catalogue, for it is no network; `find_entry("colour")` gives it."""


class NoNetwork(nn.Module):
    """Stands where other encoders have their network; it has no weights."""


class ColourTrunk(Trunk):
    """Mean and standard deviation of each channel over the pixels of a patch."""

    least_px = 1

    def __init__(self, network: NoNetwork) -> None:
        super().__init__(network, [Stage(_DEPTH, ())])

    @override
    def vector(self, depth: str, output: Tensor) -> Tensor:
        del depth
        pixels = output.flatten(2).to(torch.promote_types(output.dtype, torch.float32))
        return torch.cat([pixels.mean(2), pixels.std(2, correction=0)], dim=1)  # (B, 6)
