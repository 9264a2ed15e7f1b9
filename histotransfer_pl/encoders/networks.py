"""The network of an entry, as a trunk that can be cut."""

from histotransfer_pl.encoders.colour import COLOUR_ENTRY, ColourTrunk, NoNetwork
from histotransfer_pl.encoders.entry import EncoderEntry
from histotransfer_pl.encoders.own import build_own_trunk
from histotransfer_pl.encoders.timm_models import build_network, timm_trunk
from histotransfer_pl.encoders.truncation import Trunk


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
