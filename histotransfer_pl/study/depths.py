"""The depths that a study asks of an encoder, by name."""

import torch

from histotransfer_pl.encoders.catalogue import configured_entry
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.networks import build_trunk
from histotransfer_pl.encoders.truncation import select_depths


def requested_depths(config: EncoderConfig) -> list[str]:
    """Names of the depths of a config, shallowest first; no weights are needed.

    Raises:
        EncoderError: If there is no such encoder or depth.
    """
    with torch.device("meta"):
        return select_depths(build_trunk(configured_entry(config)), config.depths)
