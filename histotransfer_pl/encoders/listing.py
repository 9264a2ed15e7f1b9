"""The catalogue as text and as plain data, for people and for programs."""

import json
from collections.abc import Iterable
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from histotransfer_pl.encoders.catalogue import CATALOGUE
from histotransfer_pl.encoders.cost import count_costs
from histotransfer_pl.encoders.entry import EncoderEntry
from histotransfer_pl.encoders.weights import find_weights


def describe(entry: EncoderEntry) -> dict[str, Any]:
    """Everything the catalogue knows of an entry, as plain JSON types.

    `weights` says where its weights are on this machine, or is None; `depths` has the dims, the
    cumulative parameters and the multiply-accumulates of a patch of `native_px`.
    """
    found = find_weights(entry.source)
    return {
        "name": entry.name,
        "architecture": entry.architecture,
        "domain": entry.domain,
        "weights": None if found is None else found.origin,
        "files": list(entry.source.files),
        "hub": entry.source.hub_repo,
        "page": entry.source.page,
        "mean": list(entry.mean),
        "std": list(entry.std),
        "native_px": entry.native_px,
        "native_mpp": entry.native_mpp,
        "pooling": entry.pooling,
        "model_args": dict(entry.options),
        "note": entry.note,
        "licence": entry.licence,
        "citation": entry.citation,
        "depths": [
            {"depth": depth, "dim": dim, "parameters": parameters, "macs": macs}
            for depth, dim, parameters, macs in _depths(entry)
        ],
    }


def describe_catalogue() -> list[dict[str, Any]]:
    """`describe` for every entry, in the order of the catalogue."""
    return [describe(entry) for entry in CATALOGUE.values()]


def catalogue_text(described: Iterable[dict[str, Any]], width: int = 160) -> str:
    """A table of `describe_catalogue()` for a terminal."""
    columns = ("encoder", "network", "depths", "dim", "M params", "GMACs", "px", "um/px", "licence")
    table = Table(*columns, "weights here")
    table.columns[0].no_wrap = True  # names are what one copies
    for row in described:
        depths, last = row["depths"], row["depths"][-1]
        table.add_row(
            row["name"],
            row["architecture"],
            f"{depths[0]['depth']} .. {last['depth']} ({len(depths)})",
            str(last["dim"]),
            f"{last['parameters'] / 1e6:.1f}",
            f"{last['macs'] / 1e9:.2f}",
            str(row["native_px"]),
            "-" if row["native_mpp"] is None else str(row["native_mpp"]),
            row["licence"],
            row["weights"] or "no",
        )
    text = StringIO()
    Console(file=text, width=width).print(table)
    return text.getvalue()


def _depths(entry: EncoderEntry) -> tuple[tuple[str, int, int, int], ...]:
    """Costs per depth; entries that share a network share the counting."""
    facts = (entry.architecture, dict(entry.options), entry.pooling, entry.native_px)
    key = json.dumps(facts, sort_keys=True)
    if key not in _COUNTED:
        _COUNTED[key] = tuple(
            (row.depth, row.dim, row.parameters, row.macs) for row in count_costs(entry)
        )
    return _COUNTED[key]


_COUNTED: dict[str, tuple[tuple[str, int, int, int], ...]] = {}
