"""The catalogue of encoders, and what they cost on this machine."""

import json
from pathlib import Path

import torch

from histotransfer_pl.cli.answer import print_line
from histotransfer_pl.encoders.catalogue import CATALOGUE
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.cost import cost_table, measure_costs
from histotransfer_pl.encoders.listing import catalogue_text, describe_catalogue
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.done import Done
from histotransfer_pl.records.tables import write_table


def encoders(
    benchmark: list[str] | None = None,
    output: Path = Path("encoder_costs.csv"),
    input_px: int | None = None,
    batch_size: int = 16,
    repetitions: int = 5,
    device: str = "cpu",
    bf16: bool = False,
) -> Done:
    """List the encoders, their depths, sizes and weights; or measure some of them.

    Args:
        benchmark: Encoders to measure at every depth (``[all]`` for the whole catalogue) with
            random weights, which cost what trained ones do.
        output: CSV file of the measurement, which the report reads.
        input_px: Side of the patches; the encoder's own when null.
        batch_size: Patches of a batch.
        repetitions: Batches to take the median of.
        device: Where to measure, ``cpu`` or ``cuda``.
        bf16: Measure under bfloat16 autocast.
    """
    if not benchmark:
        entries = describe_catalogue()
        return Done([catalogue_text(entries)], metrics={"encoders": entries})
    _check_device(device)
    rows = []
    for name in list(CATALOGUE) if benchmark == ["all"] else benchmark:
        config = EncoderConfig(name, weights="random", depths="all", input_px=input_px)
        rows += measure_costs(
            config, device=device, batch_size=batch_size, bf16=bf16, repetitions=repetitions
        )
        print_line(f"measured {name}")
    table = cost_table(rows)
    write_table(output, table)
    costs = json.loads(table.to_json(orient="records"))
    return Done([table.to_string(index=False), f"wrote {output}"], [output], {"costs": costs})


def _check_device(device: str) -> None:
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or not (number.isdecimal() or device == kind):
        raise ConfigError(f"device is {device!r}: expected cpu or cuda")
    there = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= there:
        raise ConfigError(
            f"device is {device}, and torch sees {there} CUDA devices here: measure with --device "
            "cpu, or on a machine with a GPU and a torch that was built for CUDA"
        )
