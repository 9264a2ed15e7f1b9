"""The depths that a study asks of an encoder, by name."""

import torch

from histotransfer_pl.encoders.catalogue import find_entry
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import select_depths
from histotransfer_pl.encoders.timm_models import build_network, build_trunk


def requested_depths(config: EncoderConfig) -> list[str]:
    """Names of the depths of a config, shallowest first; no weights are needed.

    Raises:
        EncoderError: If there is no such encoder or depth.
    """
    entry = find_entry(config.name, allow_download=config.allow_download)
    available = list(entry.dims)
    if not available:
        with torch.device("meta"):
            available = list(build_trunk(build_network(entry), entry.pooling).depths)
    return select_depths(available, config.depths)
