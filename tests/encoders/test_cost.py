"""Measured costs: one row per depth, in a table that a CSV holds."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.cost import cost_table, measure_costs
from histotransfer_pl.encoders.memory import TensorMemory


def test_the_peak_counts_what_is_alive_at_once() -> None:
    kept = torch.ones(1000)  # created before: not counted
    with TensorMemory() as memory:
        first = kept + 1  # 4,000 bytes
        second = first * 2  # 8,000 alive
        first = second.view(10, 100)  # a view costs nothing; the old `first` is gone
        third = first + 1  # 8,000 again
        third += 1  # in place
        del second, first
        fourth = third + third  # 8,000
    assert memory.peak == 8_000
    assert memory.alive == 8_000
    del third, fourth
    assert memory.alive == 0


def test_a_tensor_at_the_address_of_a_freed_one_is_counted() -> None:
    before = [torch.ones(1000) for _ in range(50)]  # came in, then freed
    with TensorMemory() as memory:
        for _ in range(50):
            before.pop().sum()
        kept = [torch.ones(1000) for _ in range(50)]
    assert memory.alive >= 4_000 * len(kept)


def test_every_depth_is_measured_and_deeper_ones_cost_more(tmp_path: Path) -> None:
    config = EncoderConfig("resnet18", weights="random", depths=["stem", "layer2", "layer4"])
    rows = measure_costs(
        EncoderConfig(**{**vars(config), "input_px": 64}), batch_size=4, repetitions=3
    )
    path = tmp_path / "costs.csv"
    cost_table(rows).to_csv(path, index=False)
    table = pd.read_csv(path)
    assert table["depth"].tolist() == ["stem", "layer2", "layer4"]
    assert table["parameters"].tolist() == [9_536, 683_072, 11_176_512]
    assert table["dim"].tolist() == [64, 128, 512]
    assert table["macs"].is_monotonic_increasing
    assert table["patches_per_s"].iloc[0] > table["patches_per_s"].iloc[-1]
    weights_mib = 4 * table["parameters"].iloc[-1] / 2**20
    # weights, patches, buffers and two or three maps of the stem (4, 64, 32, 32)
    assert table["peak_mib"].iloc[-1] == pytest.approx(weights_mib + 3 * 1.0, abs=1.5)
    assert set(table["precision"]) == {"fp32"}
    assert set(table["encoder"]) == {"resnet18"}


def test_bfloat16_is_a_precision_of_its_own() -> None:
    config = EncoderConfig("resnet18", weights="random", depths=["stem"], input_px=64)
    (row,) = measure_costs(config, batch_size=2, bf16=True, repetitions=1)
    assert row.precision == "bf16"
    assert row.device == "cpu"
