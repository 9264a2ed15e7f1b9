"""The table of depths: the watched metric, costs, the sweet spot."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import EngFormatter

from histotransfer_pl.report.table import Table
from histotransfer_pl.runs.controls import Control
from histotransfer_pl.runs.costs import DepthCurve, costs_of


def costs_table(curves: Sequence[DepthCurve], table: pd.DataFrame, name: str) -> Table:
    """One row per depth of each curve: the metric, costs, and whether it is the sweet spot."""
    raw, shown = [], []
    title = curves[0].results[0].arm.title
    for curve in curves:
        deepest = curve.costs.iloc[-1]
        for place, result in enumerate(curve.results):
            found, costs = costs_of(table, result.arm.key), curve.costs.iloc[place]
            auroc = result.score
            sweet = place == curve.sweet_place
            estimate = float("nan") if auroc is None else auroc.estimate
            extra = {} if found is None else dict(found)
            gap = _gap(curve.controls[place])
            row = {"curve": curve.label, "auroc": estimate, **gap, "sweet_spot": sweet}
            raw.append({**row, **extra})
            shown.append(
                {
                    "Curve": curve.label,
                    "Depth": result.arm.key.depth + (" ★ sweet spot" if sweet else ""),
                    title: f"{estimate:.3f}",
                    "Minus random": _in_words(curve.controls[place]),
                    "Dimensions": "–" if found is None else f"{found.get('dim', 0):g}",
                    "Parameters": _with_share(costs["parameters"], deepest["parameters"]),
                    "MACs": _with_share(costs["macs"], deepest["macs"]),
                    "Patches/s": _plain(costs["patches_per_s"]),
                }
            )
    note = (
        "Shares are of the deepest cut in the comparison. The sweet spot is the shallowest cut "
        f"whose {title} differs from the best by no more than one standard error of the paired "
        "difference over patients; a cut that is not better than random networks at the same "
        "depth (minus random, interval over patients) is never called so."
    )
    notes = [
        f"{curve.label}: {curve.spot.note}."
        for curve in curves
        if curve.spot is not None and curve.spot.note
    ]
    frame, page = pd.DataFrame(raw), pd.DataFrame(shown)
    if not any(control for curve in curves for control in curve.controls):
        page = page.drop(columns="Minus random")
    return Table(name, f"{title} against depth and cost", frame, page, " ".join([note, *notes]))


def _gap(control: Control | None) -> dict[str, float]:
    if control is None:
        return {}
    gap = control.gap
    return {"minus_random": gap.estimate, "gap_low": gap.low, "gap_high": gap.high}


def _in_words(control: Control | None) -> str:
    if control is None:
        return "–"
    gap = control.gap
    shown = "" if control.better else " not better"
    return f"{gap.estimate:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]{shown}"


def _with_share(value: float, whole: float) -> str:
    """A large number in k, M or G, and its share of the deepest cut."""
    if not np.isfinite(value):
        return "–"
    share = value / whole if np.isfinite(whole) and whole > 0 else float("nan")
    return f"{EngFormatter(places=1, sep=' ')(value)}" + (
        f" ({percent(share)})" if share > 0 else ""
    )


def percent(share: float) -> str:
    """A share that is never called 0 % unless it is 0.

    Example:
        >>> percent(0.214), percent(0.0046)
        ('21 %', '0.5 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"


def _plain(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:,.0f}"
