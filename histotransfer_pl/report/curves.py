"""Figures of results: all arms, AUROC against depth and cost, calibration."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from histotransfer_pl.analysis.calibration import Reliability, reliability
from histotransfer_pl.report.costs import AXES, DepthCurve
from histotransfer_pl.report.figure import (
    COLOURS,
    MARKERS,
    SWEET,
    Picture,
    new_figure,
    note_n,
    picture,
    style,
)
from histotransfer_pl.runs.results import ArmResult, ranked

_UNITS = {
    "parameters": "count",
    "macs": "multiply-accumulates",
    "patches_per_s": "more is cheaper",
}
_MAX_CURVES = len(COLOURS)
_BACKGROUND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5}


def forest(results: Sequence[ArmResult], name: str) -> Picture | None:
    """Every arm's AUROC with its interval, and the single trainings."""
    able = [r for r in ranked(results) if r.auroc is not None]
    if not able:
        return None
    with style():
        figure = new_figure(7.8, 1.0 + 0.44 * len(able))
        axis = figure.add_subplot()
        for row, result in enumerate(able):
            _draw_row(axis, row, result)
        axis.set_yticks([])
        axis.set_ylim(len(able) - 0.5, -0.8)
        axis.spines.left.set_visible(False)
        axis.set_xlabel("Test AUROC")
        axis.axvline(0.5, color="#9ca3af", linestyle=":", linewidth=1)
        lowest = min([0.5, *(r.auroc.low for r in able if r.auroc)])
        axis.set_xlim(max(0.0, lowest - 0.01), 1.005)
        note_n(axis, how_many(able))
        best = able[0]
        return picture(
            figure,
            name,
            f"Test AUROC of every arm, {how_many(able)}. Points: all trainings together, with "
            "95 % intervals over patients; ticks: single trainings; dotted line: chance.",
            f"Forest plot of {len(able)} arms; the best is {best.arm.label} with AUROC "
            f"{best.auroc}",
        )


def _draw_row(axis: Axes, row: int, result: ArmResult) -> None:
    interval = result.auroc
    if interval is None:
        return
    first = row == 0 and result.complete
    colour = COLOURS[0] if first else "#475569"
    axis.hlines(row, interval.low, interval.high, color=colour, linewidth=2.2)
    values = list(result.arm.cell_aurocs().values())
    axis.plot(values, [row] * len(values), "|", color="#64748b", markersize=10)
    axis.plot(interval.estimate, row, "o", color=colour, markersize=7)
    weight = "bold" if first else "normal"
    label = (
        f"{result.arm.label}   {interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
    )
    # Above its line and out of the layout, so that long names leave the axis its width.
    text = axis.text(0.004, row - 0.32, label, transform=axis.get_yaxis_transform(), fontsize=8.5,
                     color=colour, weight=weight, va="center", bbox=_BACKGROUND)  # fmt: skip
    text.set_in_layout(False)


def against_depth(curves: Sequence[DepthCurve], name: str) -> Picture | None:
    """AUROC at each depth of each encoder, with the sweet spots ringed."""
    if not curves:
        return None
    shown = curves[:_MAX_CURVES]
    depths = list(dict.fromkeys(depth for curve in shown for depth in curve.depths))
    aligned = len({tuple(c.depths) for c in shown}) == 1 or _nested(shown, depths)
    with style():
        figure = new_figure(7.6, 3.7 + 0.1 * len(shown))
        axis = figure.add_subplot()
        for number, curve in enumerate(shown):
            places = [depths.index(d) if aligned else i for i, d in enumerate(curve.depths)]
            _draw_curve(axis, curve, np.array(places) + 0.06 * (number - len(shown) / 2), number)
        if aligned:
            axis.set_xticks(range(len(depths)), depths)
            axis.set_xlabel("Depth at which the encoder is cut, from shallow to deep")
        else:
            axis.set_xlabel("Number of the cut, from shallow to deep")
        axis.set_ylabel("Test AUROC")
        columns = 2 if len(shown) > 1 else 1
        figure.legend(loc="outside upper left", ncols=columns, fontsize=8.5)
        n = how_many([r for c in shown for r in c.results])
        note_n(axis, n)
        hidden = len(curves) - len(shown)
        more = f" {hidden} further curves are in the table only." if hidden else ""
        return picture(
            figure,
            name,
            f"AUROC against depth, {n}; bars: 95 % intervals over patients. Rings mark the sweet "
            f"spot: the shallowest cut within one standard error of the best.{more}",
            "; ".join(_say(curve) for curve in shown),
        )


def against_cost(curves: Sequence[DepthCurve], name: str) -> Picture | None:
    """AUROC over parameters, MACs and measured speed."""
    shown = curves[:_MAX_CURVES]
    axes = [a for a in AXES if any(c.costs[a].notna().sum() > 1 for c in shown)]
    if not axes:
        return None
    with style():
        figure = new_figure(3.4 * len(axes) + 0.4, 3.6)
        panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
        for panel, column in zip(panels, axes, strict=True):
            for number, curve in enumerate(shown):
                _draw_curve(panel, curve, curve.costs[column].to_numpy(float), number)
            panel.set_xscale("log")
            left, right = panel.get_xlim()
            wide, narrow = right / left > 30, right / left < 4
            steps = (1,) if wide else (1, 1.5, 2, 3, 5, 7) if narrow else (1, 2, 5)
            panel.xaxis.set_major_locator(LogLocator(subs=steps))
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.set_xlabel(f"{AXES[column]}\n({_UNITS[column]}, log scale)")
        panels[0].set_ylabel("Test AUROC")
        if len(shown) > 1:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left",
                          ncols=2, fontsize=8.5)  # fmt: skip
        n = how_many([r for c in shown for r in c.results])
        return picture(
            figure,
            name,
            f"AUROC against what a depth costs, {n}. Bars: 95 % intervals over patients; rings: "
            "sweet spots.",
            "The same AUROC values over " + ", ".join(AXES[a].lower() for a in axes),
        )


def reliability_figure(result: ArmResult, name: str) -> Picture | None:
    """Observed against predicted share, with the number of slides in each bin."""
    predictions, classes = result.arm.predictions(), result.arm.classes
    scores = predictions.s if predictions.s.ndim == 1 else predictions.s[:, 1:]
    with style():
        figure = new_figure(4.6, 4.6)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        top.plot([0, 1], [0, 1], ":", color="#6b7280", label="perfectly calibrated")
        shown = scores[:, None] if scores.ndim == 1 else scores
        for column in range(min(shown.shape[1], _MAX_CURVES)):
            truth = (predictions.y == column + 1).astype(np.int64)
            points = reliability(truth, shown[:, column])
            _draw_reliability(top, bottom, points, column, classes[column + 1])
        top.set_ylabel("Observed share")
        top.set_ylim(-0.03, 1.03)
        bottom.set_xlabel("Predicted probability of the class")
        bottom.set_ylabel("Slides")
        top.legend(fontsize=8.5, loc="upper left")
        ece = result.metrics["ece"].interval
        said = "" if ece is None else f" Expected calibration error {ece}."
        n = how_many([result])
        note_n(top, n)
        return picture(
            figure,
            name,
            f"Calibration of {result.arm.label}, {n}, ten equal bins; bins with few slides "
            f"scatter.{said}",
            f"Reliability plot of {result.arm.label}.{said}",
        )


def how_many(results: Sequence[ArmResult]) -> str:
    """The slides and patients behind some arms; a range where they differ."""
    slides = sorted({r.arm.n_slides() for r in results})
    patients = sorted({r.arm.n_patients() for r in results})
    return f"n = {_range(slides)} slides of {_range(patients)} patients"


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _nested(curves: Sequence[DepthCurve], depths: Sequence[str]) -> bool:
    """Whether all curves use the names of one of them, in its order."""
    longest = max(curves, key=lambda curve: len(curve.depths)).depths
    return list(depths) == longest and all(
        curve.depths == [d for d in longest if d in curve.depths] for curve in curves
    )


def _draw_curve(axis: Axes, curve: DepthCurve, x: np.ndarray, number: int) -> None:
    intervals = [r.auroc for r in curve.results if r.auroc is not None]
    y = np.array([i.estimate for i in intervals])
    below = [i.estimate - i.low for i in intervals]
    above = [i.high - i.estimate for i in intervals]
    colour = COLOURS[number]
    axis.errorbar(
        x, y, yerr=np.array([below, above]), color=colour, marker=MARKERS[number], markersize=5,
        linewidth=1.6, elinewidth=0.9, capsize=2, label=curve.label,
    )  # fmt: skip
    if curve.sweet is not None and np.isfinite(x[curve.sweet]):
        axis.plot(x[curve.sweet], y[curve.sweet], "o", markersize=14, fillstyle="none",
                  color=SWEET, markeredgewidth=2)  # fmt: skip


def _draw_reliability(
    top: Axes, bottom: Axes, points: Reliability, number: int, label: str
) -> None:
    colour = COLOURS[number]
    top.plot(points.predicted, points.observed, marker=MARKERS[number], color=colour, label=label)
    bottom.bar(points.predicted, points.counts, width=0.05, color=colour, alpha=0.7)


def _say(curve: DepthCurve) -> str:
    values = ", ".join(
        f"{r.arm.key.depth} {r.auroc.estimate:.3f}" for r in curve.results if r.auroc is not None
    )
    sweet = "" if curve.sweet is None else f", sweet spot {curve.depths[curve.sweet]}"
    return f"{curve.label}: {values}{sweet}"
