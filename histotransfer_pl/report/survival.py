"""Survival of patients whom the best arm calls at high and at low risk."""

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.analysis.survival_curves import kaplan_meier, log_rank
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.report.figure import (
    COLOURS,
    Picture,
    new_figure,
    picture,
    style,
    write_counts,
)
from histotransfer_pl.runs.arms import Arm
from histotransfer_pl.runs.results import ArmResult

_GROUPS = ("low risk", "high risk")
Targets = NDArray[np.float64]


def survival_by_risk(result: ArmResult, name: str) -> Picture | None:
    """Kaplan-Meier curves of two groups and their log-rank test.

    None where the task is not survival, or where a group has no event.
    """
    if result.arm.outcome.task != "survival":
        return None
    targets, high = halves(result.arm)
    try:
        test = log_rank(targets, high)
        curves = [kaplan_meier(targets[high == group]) for group in range(2)]
    except AnalysisError:
        return None
    with style():
        figure = new_figure(7.0, 4.2)
        axis = figure.add_subplot()
        for group, curve in enumerate(curves):
            own = targets[high == group]
            end = own[:, 0].max()
            times, colour = [0.0, *curve.times, end], COLOURS[group]
            label = f"{_GROUPS[group]} (n = {len(own)}, {own[:, 1].sum():.0f} events)"
            share = [1.0, *curve.survival, curve.survival[-1]]
            axis.step(times, share, where="post", color=colour, linestyle="-" if group else "--",
                      label=label)  # fmt: skip
            low, up = ([1.0, *limit, limit[-1]] for limit in (curve.low, curve.high))
            axis.fill_between(times, low, up, step="post", color=colour, alpha=0.15, linewidth=0)
            left = own[own[:, 1] == 0, 0]
            places = np.searchsorted(curve.times, left, side="right")  # (censored,)
            axis.plot(left, np.array([1.0, *curve.survival])[places], "|", color=colour)
        unit, _, event = result.arm.task.target.partition(", ")
        axis.set(xlabel=f"Time ({unit})", ylabel=f"Share without the event ({event})")
        axis.set(ylim=(-0.02, 1.02), xlim=(0, None))
        axis.legend(fontsize=8.5)
        write_counts(axis, f"n = {len(targets)} patients; log-rank p = {test.p_value:.2g}")
        return picture(
            figure,
            name,
            f"Kaplan-Meier curves of {result.arm.label} by predicted risk, {len(targets)} patients "
            "on whom it was tested. High risk: above the median of the patients that the same "
            "training was tested on, since risks of different trainings have no common scale. "
            "Bands: 95 % at each time; upright ticks: end of observation. Log-rank test: chi² = "
            f"{test.statistic:.2f}, p = {test.p_value:.2g}.",
            "Survival of patients at high and at low predicted risk, one step curve each.",
        )


def halves(arm: Arm) -> tuple[Targets, NDArray[np.int64]]:
    """Time and event (P, 2) of each tested patient, and whether its risk is high (P,).

    The trainings of the first seed: each patient counts once.
    """
    first = min(cell.seed for cell in arm.cells)
    targets, high = [], []
    for cell in sorted(arm.cells):
        if cell.seed == first:
            table = arm.cells[cell].tested.of_patients()
            risk = np.asarray(table.scores)
            # survival curves: the lower their mean, the higher the risk
            risk = risk if risk.ndim == 1 else -risk.mean(1)  # (P,)
            targets.append(table.targets)
            high.append(risk > np.median(risk))
    return np.concatenate(targets), np.concatenate(high).astype(np.int64)
