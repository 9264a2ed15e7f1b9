"""What each depth costs, and the cheapest one that is as good as the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import EngFormatter

from histotransfer_pl.analysis.gain import sweet_spot
from histotransfer_pl.encoders.catalogue import find_entry
from histotransfer_pl.encoders.cost import cost_table, count_costs
from histotransfer_pl.errors import AnalysisError, EncoderError
from histotransfer_pl.report.arms import Arm, encoder_label
from histotransfer_pl.report.results import ArmResult, best_result
from histotransfer_pl.report.runs import ArmKey
from histotransfer_pl.report.table import Table

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
        results: One a depth.
        sweet: Place of the sweet spot in ``results``; None if it cannot be told.
        costs: (depths, axes) the costs, NaN where unknown.
    """

    label: str
    results: tuple[ArmResult, ...]
    sweet: int | None
    costs: pd.DataFrame

    @property
    def depths(self) -> list[str]:
        """Names of the depths."""
        return [result.arm.key.depth for result in self.results]


def read_costs(study_dir: Path | None, encoders: Sequence[str]) -> tuple[pd.DataFrame, str]:
    """The costs of all depths, measured by the study, or at least counted.

    Args:
        study_dir: Folder that may hold ``costs/<encoder>.csv`` or ``costs.csv``.
        encoders: Names in the store of the encoders of the comparison.

    Returns:
        A row a depth, shallowest first, and a note where something is missing.
    """
    tables: list[pd.DataFrame] = []
    notes: list[str] = []
    for path in _cost_files(study_dir):
        try:
            table = pd.read_csv(path).rename(columns=_ALSO_CALLED)
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            notes.append(f"{path.name} is damaged ({error}): its costs are counted.")
            continue
        if not {"encoder", "depth"} <= set(table.columns):
            notes.append(f"{path.name} has no columns encoder and depth: costs are counted.")
            continue
        # The file bears the name in the store, the column may bear that of the network.
        own = [] if path.name == "costs.csv" else [table.assign(encoder=path.stem)]
        tables += [*own, table]
    known = {str(name) for table in tables for name in table["encoder"]}
    counted = _count([e for e in encoders if not {e, architecture(e)} & known])
    if len(counted):
        notes.append("Speed was not measured for all: parameters and MACs are counted.")
    joined = pd.concat([*tables, counted], ignore_index=True) if tables else counted
    return joined, " ".join(notes)


def _cost_files(study_dir: Path | None) -> list[Path]:
    if study_dir is None:
        return []
    single = study_dir / "costs.csv"
    return [*sorted((study_dir / "costs").glob("*.csv")), *([single] if single.is_file() else [])]


def _count(encoders: Sequence[str]) -> pd.DataFrame:
    rows = []
    for name in dict.fromkeys(map(architecture, encoders)):
        try:
            rows += count_costs(find_entry(name))
        except EncoderError:
            # Imported features and aliases have no network to count.
            continue
    if not rows:
        return pd.DataFrame(columns=["encoder", "depth"])
    return cost_table(rows)


def architecture(encoder: str) -> str:
    """The network behind a name in the store: random weights and tuning do not change its cost."""
    return encoder.partition("-random")[0].partition("@")[0]


def costs_of(table: pd.DataFrame, key: ArmKey) -> pd.Series | None:
    """The row of an encoder at a depth, if there is one."""
    for name in (key.encoder, architecture(key.encoder)):
        found = table[(table["encoder"] == name) & (table["depth"] == key.depth)]
        if len(found):
            return found.iloc[0]
    return None


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
        names = table.loc[table["encoder"].isin([encoder, architecture(encoder)]), "depth"]
        place = {str(name): i for i, name in enumerate(names)}
        if all(depth in place for depth in depths):
            order[encoder] = sorted(depths, key=place.__getitem__)
    return order


def depth_curves(
    results: Sequence[ArmResult], order: Mapping[str, Sequence[str]], table: pd.DataFrame
) -> list[DepthCurve]:
    """Curves of all encoders that were cut at more than one depth, the best curve first."""
    groups: dict[tuple[str, ...], list[ArmResult]] = {}
    for result in results:
        key = result.arm.key
        if result.auroc is not None and result.complete:
            equal = (key.encoder, key.weights, key.head, key.variant, key.settings)
            groups.setdefault(equal, []).append(result)
    curves = [
        _curve(sorted(group, key=partial(_place, order)), results, table)
        for group in groups.values()
        if len(group) > 1
    ]
    best = best_result(results)
    return sorted(curves, key=lambda c: best not in c.results)


def _place(order: Mapping[str, Sequence[str]], result: ArmResult) -> int:
    key = result.arm.key
    return order[key.encoder].index(key.depth)


def _curve(
    own: Sequence[ArmResult], results: Sequence[ArmResult], table: pd.DataFrame
) -> DepthCurve:
    key = own[0].arm.key
    words = [encoder_label(key)]
    for name in ("head", "variant", "settings"):
        value = getattr(key, name)
        if value and len({getattr(r.arm.key, name) for r in results}) > 1:
            words.append(value)
    found = [costs_of(table, r.arm.key) for r in own]
    costs = pd.DataFrame(
        [{a: _number(row, a) for a in AXES} for row in found], columns=list(AXES), dtype=float
    )
    try:
        depth = sweet_spot({r.arm.key.depth: list(r.arm.cell_aurocs().values()) for r in own})
    except AnalysisError:
        return DepthCurve(" · ".join(words), tuple(own), None, costs)
    sweet = [r.arm.key.depth for r in own].index(depth)
    return DepthCurve(" · ".join(words), tuple(own), sweet, costs)


def _number(row: pd.Series | None, axis: str) -> float:
    if row is None or axis not in row.index:
        return float("nan")
    return float(row[axis])


def costs_table(curves: Sequence[DepthCurve], table: pd.DataFrame, name: str) -> Table:
    """One row a depth of each curve: AUROC, costs, and whether it is the sweet spot."""
    raw, shown = [], []
    for curve in curves:
        deepest = curve.costs.iloc[-1]
        for place, result in enumerate(curve.results):
            found, costs = costs_of(table, result.arm.key), curve.costs.iloc[place]
            auroc = result.auroc
            sweet = place == curve.sweet
            estimate = float("nan") if auroc is None else auroc.estimate
            extra = {} if found is None else dict(found)
            raw.append({"curve": curve.label, "auroc": estimate, "sweet_spot": sweet, **extra})
            shown.append(
                {
                    "Curve": curve.label,
                    "Depth": result.arm.key.depth + (" ★ sweet spot" if sweet else ""),
                    "AUROC": f"{estimate:.3f}",
                    "Dimensions": "–" if found is None else f"{found.get('dim', 0):g}",
                    "Parameters": _with_share(costs["parameters"], deepest["parameters"]),
                    "MACs": _with_share(costs["macs"], deepest["macs"]),
                    "Patches/s": _plain(costs["patches_per_s"]),
                }
            )
    note = (
        "Shares are of the deepest cut in the comparison. The sweet spot is the shallowest cut "
        "whose mean AUROC over the trainings is within one standard error of the best."
    )
    frame, page = pd.DataFrame(raw), pd.DataFrame(shown)
    return Table(name, "AUROC against depth and cost", frame, page, note)


def _with_share(value: float, whole: float) -> str:
    """A large number in k, M or G, and its share of the deepest cut."""
    if not np.isfinite(value):
        return "–"
    share = 100 * value / whole if np.isfinite(whole) and whole > 0 else float("nan")
    percent = f"{share:.0f}" if share >= 1 else f"{share:.1g}"
    return f"{EngFormatter(places=1, sep=' ')(value)}" + (f" ({percent} %)" if share > 0 else "")


def _plain(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:,.0f}"
