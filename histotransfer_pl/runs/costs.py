"""What each depth of an encoder costs, and the cheapest one that is as good as the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from histotransfer_pl.errors import EncoderError
from histotransfer_pl.records.tables import read_table
from histotransfer_pl.runs.arms import Arm, encoder_label
from histotransfer_pl.runs.controls import COLOUR, Control, control_of, is_random
from histotransfer_pl.runs.results import ArmResult, SweetSpot, best_result, sweet_spot
from histotransfer_pl.runs.run import ArmKey
from histotransfer_pl.runs.study import Network, Study
from histotransfer_pl.store.feature_store import FeatureStore

Networks = dict[str, Network]
AXES = {
    "parameters": "Cumulative parameters",
    "macs": "MACs of a patch",
    "patches_per_s": "Patches/s",
}
"""Columns of the cost table that a curve is drawn over."""
_ALSO_CALLED = {"params": "parameters", "peak_mb": "peak_mib"}


@dataclass(frozen=True, eq=False)
class DepthCurve:
    """AUROC of one encoder at its depths, from shallow to deep, all else equal.

    Attributes:
        label: Encoder, and head and variant where they vary.
        results: One per depth.
        spot: The sweet spot; None if it cannot be told, or if no depth that is as good as the best
            is better than random weights.
        controls: Each depth against random networks at that depth, where the comparison has any.
        costs: (depths, axes) the costs, NaN where unknown.
    """

    label: str
    results: tuple[ArmResult, ...]
    spot: SweetSpot | None
    controls: tuple[Control | None, ...]
    costs: pd.DataFrame

    @property
    def random(self) -> bool:
        """Whether the encoder was taught nothing: a control itself."""
        return is_random(self.results[0])

    @property
    def sweet_place(self) -> int | None:
        """Place of the sweet spot in ``results``; None if it cannot be told."""
        return None if self.spot is None else self.spot.place

    @property
    def depths(self) -> list[str]:
        """Names of the depths."""
        return [result.arm.key.depth for result in self.results]


def networks_of(study: Study, arms: Sequence[Arm], store: FeatureStore | None) -> Networks:
    """The network behind each encoder of the comparison, and the side of the images it saw."""
    patch_px = None if store is None or store.grid is None else store.grid.get("patch_px")
    found: Networks = {}
    for arm in arms:
        record = arm.runs[0].record
        spec, encoder = record.features.encoder, arm.key.encoder
        network = study.network(encoder) or Network(spec.name, spec.input_px)
        whole = record.grid.patch_px if record.grid is not None else patch_px
        found[encoder] = Network(network.name, network.input_px or whole)
    return found


def read_costs(study_dir: Path | None, networks: Networks) -> tuple[pd.DataFrame, str]:
    """The costs of all depths, measured by the study, or at least counted.

    Args:
        study_dir: Folder that may hold ``costs/<encoder>.csv`` or ``costs.csv``.
        networks: The network behind each encoder of the comparison.

    Returns:
        Rows by encoder and depth, shallowest first, and a note where something is missing.
    """
    measured, notes = _measured(study_dir)
    tables = [_rows_of(encoder, network, measured) for encoder, network in networks.items()]
    lacking = {e: n for (e, n), t in zip(networks.items(), tables, strict=True) if not len(t)}
    counted = _count(lacking)
    if len(counted):
        notes.append("Speed was not measured for all: parameters and MACs are counted.")
    kept = [table for table in (*tables, counted) if len(table)]
    columns = ["encoder", "depth"]
    joined = pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=columns)
    return joined, " ".join(notes)


def _measured(study_dir: Path | None) -> tuple[list[tuple[str, pd.DataFrame]], list[str]]:
    """The tables of a study, each with the encoder that its file is called after."""
    tables: list[tuple[str, pd.DataFrame]] = []
    notes: list[str] = []
    for path in _cost_files(study_dir):
        try:
            table = read_table(path).rename(columns=_ALSO_CALLED)
        except (OSError, ValueError) as error:
            notes.append(f"{path.name} is damaged ({error}): its costs are counted.")
            continue
        if not {"encoder", "depth"} <= set(table.columns):
            notes.append(f"{path.name} has no columns encoder and depth: costs are counted.")
            continue
        tables.append((path.stem, table))
    return tables, notes


def _rows_of(
    encoder: str, network: Network, measured: Sequence[tuple[str, pd.DataFrame]]
) -> pd.DataFrame:
    """The measured rows of an encoder: weights change nothing about its cost, images do."""
    for stem, table in measured:
        same = table["encoder"].isin([network.name, encoder]) | (stem == encoder)
        if network.input_px is not None and "input_px" in table:
            same &= table["input_px"] == network.input_px
        if same.any():
            return table[same].assign(encoder=encoder)
    return pd.DataFrame()


def _cost_files(study_dir: Path | None) -> list[Path]:
    if study_dir is None:
        return []
    single = study_dir / "costs.csv"
    return [*sorted((study_dir / "costs").glob("*.csv")), *([single] if single.is_file() else [])]


def _count(networks: Networks) -> pd.DataFrame:
    if not networks:
        return pd.DataFrame()
    # torch and the catalogue take seconds, and a study that measured its costs needs neither
    from histotransfer_pl.encoders.catalogue import find_entry
    from histotransfer_pl.encoders.cost import cost_table, count_costs

    counted: dict[Network, pd.DataFrame] = {}
    for network in networks.values():
        if network not in counted:
            try:
                rows = count_costs(find_entry(network.name), network.input_px)
            except EncoderError:
                rows = []  # features that were imported have no network to count
            counted[network] = cost_table(rows) if rows else pd.DataFrame()
    tables = [counted[n].assign(encoder=e) for e, n in networks.items() if len(counted[n])]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def costs_of(table: pd.DataFrame, key: ArmKey) -> pd.Series | None:
    """The row of an encoder at a depth, if there is one."""
    found = table[(table["encoder"] == key.encoder) & (table["depth"] == key.depth)]
    return found.iloc[0] if len(found) else None


def depth_order(arms: Sequence[Arm], table: pd.DataFrame) -> dict[str, list[str]]:
    """Depths of each encoder in the comparison, from shallow to deep.

    The cost table tells the order; without it, the order of the study stands.
    """
    order: dict[str, list[str]] = {}
    for arm in arms:
        known = order.setdefault(arm.key.encoder, [])
        if arm.key.depth not in known:
            known.append(arm.key.depth)
    for encoder, depths in order.items():
        names = table.loc[table["encoder"] == encoder, "depth"]
        place = {str(name): i for i, name in enumerate(names)}
        if all(depth in place for depth in depths):
            order[encoder] = sorted(depths, key=place.__getitem__)
    return order


def depth_curves(
    results: Sequence[ArmResult],
    order: Mapping[str, Sequence[str]],
    table: pd.DataFrame,
    networks: Networks,
) -> list[DepthCurve]:
    """Curves of all encoders cut at more than one depth: the best first, random weights last.

    Random weights are drawn at a single depth too: they are what the others are held against.
    """
    groups: dict[ArmKey, list[ArmResult]] = {}
    for result in results:
        key = result.arm.key
        if result.score is not None and result.complete:
            groups.setdefault(key._replace(depth=""), []).append(result)
    curves = [
        _curve(sorted(group, key=partial(_place, order)), results, table, networks)
        for group in groups.values()
    ]
    if not any(len(curve.results) > 1 for curve in curves):
        return []
    curves = [curve for curve in curves if len(curve.results) > 1 or curve.random]
    best = best_result(results)
    return sorted(curves, key=lambda c: (c.random, best not in c.results))


def colour_alone(results: Sequence[ArmResult], networks: Networks) -> list[ArmResult]:
    """Arms whose encoder sees the mean and deviation of the channels and nothing else."""
    return [
        result
        for result in results
        if result.score is not None
        and (network := networks.get(result.arm.key.encoder)) is not None
        and network.name == COLOUR
    ]


def _place(order: Mapping[str, Sequence[str]], result: ArmResult) -> int:
    key = result.arm.key
    return order[key.encoder].index(key.depth)


def _curve(
    own: Sequence[ArmResult],
    results: Sequence[ArmResult],
    table: pd.DataFrame,
    networks: Networks,
) -> DepthCurve:
    key = own[0].arm.key
    words = [encoder_label(key)]
    for name in ("head", "variant", "settings"):
        value = str(getattr(key, name))
        if value and len({getattr(r.arm.key, name) for r in results}) > 1:
            words.append(value)
    found = [costs_of(table, r.arm.key) for r in own]
    costs = pd.DataFrame(
        [{a: _number(row, a) for a in AXES} for row in found], columns=list(AXES), dtype=float
    )
    controls = tuple(control_of(result, results, networks) for result in own)
    allowed = [control is None or control.better for control in controls]
    spot = sweet_spot(own, allowed) if len(own) > 1 and not is_random(own[0]) else None
    return DepthCurve(" · ".join(words), tuple(own), spot, controls, costs)


def _number(row: pd.Series | None, axis: str) -> float:
    if row is None or axis not in row.index:
        return float("nan")
    return float(row[axis])
