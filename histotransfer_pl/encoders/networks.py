"""The network of an entry, as a trunk that can be cut, and its depths by name."""

import torch

from histotransfer_pl.encoders.catalogue import configured_entry
from histotransfer_pl.encoders.colour import COLOUR_ENTRY, ColourTrunk, NoNetwork
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.entry import EncoderEntry
from histotransfer_pl.encoders.own import build_own_trunk
from histotransfer_pl.encoders.timm_models import build_network, timm_trunk
from histotransfer_pl.encoders.truncation import Trunk, select_depths


def build_trunk(entry: EncoderEntry, seed: int | None = None) -> Trunk:
    """Build the whole network of an entry and name its blocks.

    Args:
        entry: The encoder.
        seed: Seed of random weights; None where a checkpoint follows, or on the meta device.

    Raises:
        EncoderError: If the network can't be built, or can't be pooled as the entry says.
    """
    if entry.architecture == COLOUR_ENTRY.architecture:
        return ColourTrunk(NoNetwork())
    if entry.places:
        return build_own_trunk(entry, seed)
    return timm_trunk(build_network(entry, seed), entry.pooling)


def requested_depths(config: EncoderConfig) -> list[str]:
    """Names of the depths of a config, shallowest first; no weights are needed.

    Raises:
        EncoderError: If there is no such encoder or depth.
    """
    with torch.device("meta"):
        return select_depths(build_trunk(configured_entry(config)), config.depths)
