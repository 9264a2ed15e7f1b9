"""The verb ``similarity``: CKA of every block of one encoder with every block of another."""

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor
from typing_extensions import override

from histotransfer_pl.cli.answer import print_line, record
from histotransfer_pl.cli.network_parser import PassCLI
from histotransfer_pl.data.patch_sample import PatchSampleDataModule
from histotransfer_pl.encoders.encoder import PatchEncoder
from histotransfer_pl.records.done import INTERRUPTED
from histotransfer_pl.records.files import write_text
from histotransfer_pl.records.tables import write_table
from histotransfer_pl.tasks.similarity import CKAResult, RepresentationSimilarity, Space, facts_of

_log = logging.getLogger(__name__)


class SimilarityCLI(PassCLI):
    """``similarity``: ``test`` over a sample of patches."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--output", type=Path, default=Path("similarity.csv"), help=_OUTPUT)


_OUTPUT = "CSV file of the matrix; <name>_flattened.csv and JSON files with n, d, controls beside."


def similarity(arguments: list[str]) -> int:
    """CKA of every block of one encoder with every block of another, on the same patches."""
    cli = SimilarityCLI(
        "similarity",
        RepresentationSimilarity,
        PatchSampleDataModule,
        arguments,
        similarity.__doc__,
    )
    cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    if cli.trainer.interrupted:
        return INTERRUPTED
    if cli.trainer.is_global_zero:
        write_results(cli.model, cli.datamodule, cli.config.output)
    return 0


def write_results(
    task: RepresentationSimilarity, data: PatchSampleDataModule, output: Path
) -> None:
    """Write a matrix and its facts for each space, and say what they are."""
    unreadable = sorted(set(task.unreadable))
    for reason in unreadable:
        _log.warning("left out: %s", reason)
    record(metrics={"patches": task.n_patches}, failures=dict.fromkeys(unreadable, "left out"))
    if task.n_patches < data.drawn:
        _log.warning("%d of the %d patches drawn were compared", task.n_patches, data.drawn)
    for space, result in task.results.items():
        path = output if space == "pooled" else output.with_name(f"{output.stem}_flattened.csv")
        table = pd.DataFrame(result.pair.numpy(), columns=task.second.depths)
        table.insert(0, "layer", task.first.depths)
        write_table(path, table)
        facts = describe(task, data, space, result)
        write_text(path.with_suffix(".json"), json.dumps(facts, indent=1))
        print_line(
            f"CKA of {facts['x']} (rows) and {facts['y']}, {space}, n = {task.n_patches} patches"
        )
        print_line(table.to_string(index=False, float_format="{:.3f}".format))
        for name, values in facts["controls"].items():
            shown = ", ".join(f"{layer} {_shown(value)}" for layer, value in values.items())
            print_line(f"  control {name}: {shown}")
        print_line(f"wrote {path}")
        matrix = json.loads(table.set_index("layer").to_json(orient="index"))
        record(files=(path, path.with_suffix(".json")), metrics={f"cka_{space}": matrix})


def describe(
    task: RepresentationSimilarity, data: PatchSampleDataModule, space: Space, result: CKAResult
) -> dict[str, Any]:
    """What must be known beside a matrix, as plain JSON types."""
    controls: dict[str, dict[str, float | None]] = {}
    for name, values in (("with itself", result.itself), ("with random", result.random)):
        if values is not None:
            controls[name] = _by_layer(task.first.depths, values)
    seen = {
        encoder.name: len(data.patients & set(_tuned_on(encoder)))
        for encoder in (task.first, task.second)
        if _tuned_on(encoder)
    }
    if any(seen.values()):
        _log.warning("an encoder was tuned on patients of these patches (%s): give data.part", seen)
    return {
        "x": task.first.name,
        "y": task.second.name,
        "n": task.n_patches,
        "slides": len(data.work),
        "part": data.part or "all",
        "method": f"unbiased minibatch linear CKA, batches of {data.batch_size}",
        "space": space,
        "controls": controls,
        "random_batchnorm": task.random_batchnorm,
        "random_batchnorm_patches": task.reestimated,
        "d_x": result.dims_first,
        "d_y": result.dims_second,
        "encoder_x": facts_of(task.first),
        "encoder_y": facts_of(task.second),
        "tuned_on_patients_among_them": seen,
        "store": data.store.location,
        "grid": data.grid.to_json(),
        "seed": data.seed,
    }


def _tuned_on(encoder: PatchEncoder) -> list[str]:
    found: list[str] = encoder.provenance.get("tuned", {}).get("tuned_on_patients", [])
    return found


def _by_layer(layers: list[str], values: Tensor) -> dict[str, float | None]:
    # JSON has no NaN: a block that is constant over the patches has no CKA
    numbers = [float(value) for value in values]
    pairs = zip(layers, numbers, strict=True)
    return {layer: None if number != number else number for layer, number in pairs}  # noqa: PLR0124


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
