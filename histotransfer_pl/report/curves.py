"""Figures of results: all arms, AUROC against depth and cost."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from histotransfer_pl.report.figure import (
    COLOURS,
    MARKERS,
    SWEET,
    Picture,
    draw_intervals,
    new_figure,
    picture,
    style,
    write_counts,
)
from histotransfer_pl.runs.costs import AXES, DepthCurve
from histotransfer_pl.runs.results import ArmResult, ranked

_UNITS = {
    "parameters": "count",
    "macs": "multiply-accumulates",
    "patches_per_s": "more is cheaper",
}
_MAX_CURVES = len(COLOURS)
_LONG_NAME = 45
_FLOOR = "#6b7280"  # of controls
_BACKGROUND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5}


def forest(results: Sequence[ArmResult], name: str) -> Picture | None:
    """The watched metric of every arm with its interval, and the single trainings."""
    able = [r for r in ranked(results) if r.score is not None]
    if not able:
        return None
    title, chance = able[0].arm.title, able[0].arm.chance
    with style():
        figure = new_figure(7.8, 1.0 + 0.44 * len(able))
        axis = figure.add_subplot()
        for row, result in enumerate(able):
            _draw_row(axis, row, result)
        axis.set_yticks([])
        axis.set_ylim(len(able) - 0.5, -0.8)
        axis.spines.left.set_visible(False)
        axis.set_xlabel(f"Test {title}")
        axis.axvline(chance, color="#9ca3af", linestyle=":", linewidth=1)
        lowest = min([chance, *(r.score.low for r in able if r.score)])
        axis.set_xlim(lowest - 0.01, 1.005)
        write_counts(axis, describe_counts(able))
        best = able[0]
        return picture(
            figure,
            name,
            f"Test {title} of every arm, {describe_counts(able)}. Points: all trainings, with "
            "95 % intervals over patients; ticks: single trainings; dotted line: chance.",
            f"Forest plot of {len(able)} arms; the best is {best.arm.label} with {title} "
            f"{best.score}",
        )


def _draw_row(axis: Axes, row: int, result: ArmResult) -> None:
    interval = result.score
    if interval is None:
        return
    first = row == 0 and result.complete
    colour = COLOURS[0] if first else "#475569"
    axis.hlines(row, interval.low, interval.high, color=colour, linewidth=2.2)
    values = list(result.arm.cell_scores().values())
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


def against_depth(
    curves: Sequence[DepthCurve], colour: Sequence[ArmResult], name: str
) -> Picture | None:
    """The watched metric at each depth, with chance, colour alone and the sweet spots.

    Encoders whose depths have the same names share a panel, so every depth is named.
    """
    if not curves:
        return None
    taught = [curve for curve in curves if not curve.random][:_MAX_CURVES]
    floors = [curve for curve in curves if curve.random]
    shown = [*taught, *floors]
    groups = _by_depths(shown)
    title, chance = _measure(shown)
    with style():
        width = sum(max(2, len(depths)) for depths, _ in groups)
        figure = new_figure(max(7.6, min(0.75 * width + 1.5, 13)), 4.0 + 0.12 * len(shown))
        panels = figure.subplots(
            1, len(groups), sharey=True, squeeze=False,
            width_ratios=[max(2, len(depths)) for depths, _ in groups],
        )[0]  # fmt: skip
        for panel, (depths, members) in zip(panels, groups, strict=True):
            for number in members:
                places = np.array([depths.index(depth) for depth in shown[number].depths])
                shift = 0.06 * (members.index(number) - (len(members) - 1) / 2)
                _draw_curve(panel, shown[number], places + shift, number)
            for result in colour:
                if result.score is not None:
                    panel.axhline(result.score.estimate, color=_FLOOR, linestyle="-.")
            panel.axhline(chance, color="#6b7280", linestyle=":", linewidth=1.2)
            turned = 90 if sum(map(len, depths)) > 60 * len(depths) / width else 0
            panel.set_xticks(range(len(depths)), depths, rotation=turned)
            panel.margins(x=0.12)
        figure.supxlabel("Depth at which the encoder is cut, from shallow to deep", fontsize=10)
        panels[0].set_ylabel(f"Test {title}")
        _legend(figure, panels, shown, colour)
        n = describe_counts([r for c in shown for r in c.results])
        write_counts(panels[-1], n)
        hidden = len(curves) - len(shown)
        dashed = "; dashed: random weights" if floors else ""
        dotted = "; dash-dotted: mean and deviation of the channels alone" if colour else ""
        more = f" {hidden} further curves are in the table only." if hidden else ""
        return picture(
            figure,
            name,
            f"{title} against depth, {n}; bars: 95 % intervals over patients{dashed}"
            f"{dotted}. Rings mark the sweet spot: the shallowest cut within one standard "
            f"error of the best, if better than random weights where these were tried.{more}",
            "; ".join(_describe(curve) for curve in shown),
        )


def _by_depths(curves: Sequence[DepthCurve]) -> list[tuple[list[str], list[int]]]:
    """Names of depths, and the curves that use these names, in groups."""
    groups: list[tuple[list[str], list[int]]] = []
    for number in sorted(range(len(curves)), key=lambda n: -len(curves[n].depths)):
        own = curves[number].depths
        for depths, members in groups:
            if own == [depth for depth in depths if depth in own]:
                members.append(number)
                break
        else:
            groups.append((own, [number]))
    return sorted(groups, key=lambda group: min(group[1]))


def _legend(
    figure: Figure,
    panels: Sequence[Axes],
    shown: Sequence[DepthCurve],
    colour: Sequence[ArmResult],
) -> None:
    """One legend of all curves, their bars, chance, colour alone and the ring."""
    found = [panel.get_legend_handles_labels() for panel in panels]
    drawn = {name: line for lines, names in found for name, line in zip(names, lines, strict=True)}
    labels = [curve.label for curve in shown if curve.label in drawn]
    handles = [drawn[label] for label in labels]
    chance = Line2D([], [], color="#6b7280", linestyle=":", label="chance")
    ring = Line2D([], [], color=SWEET, marker="o", markersize=10, fillstyle="none",
                  linestyle="none", label="sweet spot")  # fmt: skip
    alone = Line2D([], [], color=_FLOOR, linestyle="-.", label="colour alone")
    bar = Line2D([], [], color="#374151", marker="|", markersize=11, linestyle="none",
                 label="95 % interval over patients")  # fmt: skip
    rings = [ring] if any(curve.sweet_place is not None for curve in shown) else []
    extra = [bar, chance, *([alone] if colour else []), *rings]
    names = [*labels, *(str(line.get_label()) for line in extra)]
    columns = 2 if max(map(len, names)) < _LONG_NAME else 1
    figure.legend([*handles, *extra], names, loc="outside upper left", ncols=columns,
                  fontsize=8.5)  # fmt: skip


def against_cost(curves: Sequence[DepthCurve], name: str) -> Picture | None:
    """The watched metric over parameters, MACs and measured speed."""
    shown = curves[:_MAX_CURVES]
    axes = [a for a in AXES if any(c.costs[a].notna().sum() > 1 for c in shown)]
    if not axes:
        return None
    title, chance = _measure(shown)
    with style():
        figure = new_figure(3.4 * len(axes) + 0.4, 3.6)
        panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
        for panel, column in zip(panels, axes, strict=True):
            for number, curve in enumerate(shown):
                _draw_curve(panel, curve, curve.costs[column].to_numpy(float), number)
            panel.axhline(chance, color="#6b7280", linestyle=":", linewidth=1.2)
            panel.set_xscale("log")
            left, right = panel.get_xlim()
            wide, narrow = right / left > 30, right / left < 4
            steps = (1,) if wide else (1, 1.5, 2, 3, 5, 7) if narrow else (1, 2, 5)
            panel.xaxis.set_major_locator(LogLocator(subs=steps))
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.set_xlabel(f"{AXES[column]}\n({_UNITS[column]}, log scale)")
        panels[0].set_ylabel(f"Test {title}")
        _legend(figure, panels[:1], shown, ())
        n = describe_counts([r for c in shown for r in c.results])
        return picture(
            figure,
            name,
            f"{title} against what a depth costs, {n}. Bars: 95 % intervals over patients; rings: "
            "sweet spots.",
            f"The same {title} values over " + ", ".join(AXES[a].lower() for a in axes),
        )


def _measure(curves: Sequence[DepthCurve]) -> tuple[str, float]:
    """What the curves measure, and its value where nothing was learnt."""
    arm = curves[0].results[0].arm
    return arm.title, arm.chance


def describe_counts(results: Sequence[ArmResult]) -> str:
    """The slides and patients behind some arms; a range where they differ."""
    slides = sorted({r.arm.n_slides() for r in results})
    patients = sorted({r.arm.n_patients() for r in results})
    return f"n = {_range(slides)} slides of {_range(patients)} patients"


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _draw_curve(axis: Axes, curve: DepthCurve, x: np.ndarray, number: int) -> None:
    intervals = [r.score for r in curve.results if r.score is not None]
    y = np.array([i.estimate for i in intervals])
    if curve.random:  # a control: its spread is that of its twins
        marker = MARKERS[number % len(MARKERS)]
        axis.plot(x, y, "--", color=_FLOOR, marker=marker, markersize=3, linewidth=1,
                  label=curve.label)  # fmt: skip
        return
    draw_intervals(axis, x, intervals, curve.label, number)
    if curve.sweet_place is not None and np.isfinite(x[curve.sweet_place]):
        axis.plot(x[curve.sweet_place], y[curve.sweet_place], "o", markersize=14, fillstyle="none",
                  color=SWEET, markeredgewidth=2, clip_on=False)  # fmt: skip


def _describe(curve: DepthCurve) -> str:
    values = ", ".join(
        f"{r.arm.key.depth} {r.score.estimate:.3f}" for r in curve.results if r.score is not None
    )
    sweet = "" if curve.sweet_place is None else f", sweet spot {curve.depths[curve.sweet_place]}"
    return f"{curve.label}: {values}{sweet}"
