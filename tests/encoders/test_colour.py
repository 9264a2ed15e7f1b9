"""The control without a network."""

import numpy as np
import torch

from histotransfer_pl.encoders.catalogue import find_entry
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.cost import count_costs
from histotransfer_pl.encoders.encoder import build_encoder


def test_features_are_mean_and_deviation_of_the_channels() -> None:
    patches = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    encoder = build_encoder(EncoderConfig("colour", depths="all"))

    features = encoder(torch.from_numpy(patches))["channels"].numpy()

    scaled = patches.reshape(3, -1, 3) / 255
    expected = np.concatenate([scaled.mean(1), scaled.std(1)], axis=1)
    np.testing.assert_allclose(features, expected, rtol=1e-5)


def test_where_a_pixel_lies_does_not_matter() -> None:
    pixels = torch.randint(0, 256, (1, 400, 3), dtype=torch.uint8)
    encoder = build_encoder(EncoderConfig("colour"))

    first = encoder(pixels.reshape(1, 20, 20, 3))["channels"]
    shuffled = encoder(pixels[:, torch.randperm(400)].reshape(1, 20, 20, 3))["channels"]

    torch.testing.assert_close(first, shuffled)


def test_it_needs_no_weights_and_costs_nothing() -> None:
    encoder = build_encoder(EncoderConfig("colour"))

    assert encoder.provenance["weights_sha256"] == "none"
    (row,) = count_costs(find_entry("colour"), 50)
    assert (row.depth, row.dim, row.parameters, row.macs) == ("channels", 6, 0, 0)
