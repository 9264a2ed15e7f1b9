"""Figures of one arm's test predictions: ROC, precision-recall, confusion, calibration."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from histotransfer_pl.analysis.bootstrap import Interval, bootstrap_interval
from histotransfer_pl.analysis.calibration import CalibrationBins, calibration_bins
from histotransfer_pl.analysis.curves import GRID, Band, pr_band, roc_band, sensitivity, specificity
from histotransfer_pl.analysis.metrics import METRICS, decide
from histotransfer_pl.analysis.predictions import Predictions
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.report.curves import describe_counts
from histotransfer_pl.report.figure import (
    COLOURS,
    MARKERS,
    SEQUENTIAL,
    Picture,
    new_figure,
    picture,
    style,
    write_counts,
)
from histotransfer_pl.report.table import Table
from histotransfer_pl.runs.results import ArmResult, span
from histotransfer_pl.runs.thresholds import calibrated_scores, thresholds_of

CHOSEN = "chosen on validation slides"
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class ArmWords:
    """What stands on the figures of an arm.

    Attributes:
        label: Its name.
        n: The slides and patients behind it, in words.
        classes: Names of the classes, in the order of the scores.
    """

    label: str
    n: str
    classes: Sequence[str]

    @property
    def shown(self) -> list[int]:
        """The classes that are drawn: the second of two, or each against the rest."""
        return [1] if len(self.classes) == 2 else list(range(len(self.classes)))[: len(COLOURS)]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything about the decisions of one arm.

    Attributes:
        discrimination: ROC and precision-recall curves.
        confusion: The confusion matrix.
        calibration: Observed against predicted shares.
        rates: Sensitivity and specificity; None with more than two classes.
        note: How the class was decided.
    """

    discrimination: Picture | None
    confusion: Picture
    calibration: Picture | None
    rates: Table | None
    note: str


def evaluate(result: ArmResult, rename: Callable[[str], str]) -> Evaluation:
    """Figures and rates of an arm."""
    predictions = result.arm.predictions()
    words = ArmWords(result.arm.label, describe_counts([result]), result.arm.classes)
    thresholds: NDArray[np.float64] | None = None
    try:
        thresholds = thresholds_of(result.arm)
        note = f"The class is decided at a threshold {CHOSEN}, for each training its own."
    except AnalysisError as error:
        note = f"The most probable class is decided for. No threshold: {error}."
    after, gaps = _calibrated(result, predictions)
    decided = decide_at(predictions, thresholds)
    return Evaluation(
        discrimination(predictions, words, rename("roc")),
        confusion(decided, predictions.y, words, rename("confusion"), note),
        calibration(predictions, words, rename("reliability"), gaps, after),
        _rates_table(predictions, thresholds, rename("rates")),
        note,
    )


def _calibrated(result: ArmResult, predictions: Predictions) -> tuple[Predictions | None, str]:
    """Predictions at the temperature of each training, and the error before and after in words."""
    gap = result.metrics["ece"].interval
    if gap is None:
        return None, ""
    before = f" Expected calibration error {gap}"
    try:
        after = replace(predictions, scores=calibrated_scores(result.arm))
        left = bootstrap_interval(after, METRICS["ece"])
    except AnalysisError as error:
        return None, f"{before}; not calibrated: {error}."
    return after, f"{before}; {left} once each training is calibrated on its validation slides."


def _rates_table(
    predictions: Predictions, thresholds: NDArray[np.float64] | None, name: str
) -> Table | None:
    if predictions.n_classes != 2:
        return None
    given = thresholds is not None
    used = thresholds if thresholds is not None else np.full(predictions.n_slides, 0.5)
    rates = rates_at(predictions, used)
    if rates is None:
        return None
    words = f"{rates.threshold} ({CHOSEN if given else 'not chosen'})"
    limits = {
        "sensitivity": rates.sensitivity,
        "specificity": rates.specificity,
    }
    frame = pd.DataFrame(
        [
            {"rate": rate, "threshold": words, "value": i.estimate, "low": i.low, "high": i.high}
            for rate, i in limits.items()
        ]
    )
    page = pd.DataFrame(
        [
            {"Rate": rate.capitalize(), "Value [95 %]": span(interval), "Threshold": words}
            for rate, interval in limits.items()
        ]
    )
    return Table(name, "Decisions at one threshold", frame, page)


@dataclass(frozen=True)
class Rates:
    """Sensitivity and specificity at thresholds that were chosen on validation slides."""

    threshold: str
    sensitivity: Interval
    specificity: Interval


def discrimination(predictions: Predictions, arm: ArmWords, name: str) -> Picture | None:
    """ROC and precision-recall curves, each with its band over patients."""
    try:
        bands = [(c, roc_band(predictions, c), pr_band(predictions, c)) for c in arm.shown]
    except AnalysisError:
        return None
    with style():
        figure = new_figure(8.2, 4.2)
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], ":", color="#6b7280", label="chance")
        for number, (label, roc, pr) in enumerate(bands):
            _draw_band(left, roc, number, arm.classes[label])
            _draw_band(right, pr, number, arm.classes[label])
        for axis, x, y in (
            (left, "False positive rate (1 - specificity)", "Sensitivity"),
            (right, "Recall (sensitivity)", "Precision"),
        ):
            axis.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        left.legend(fontsize=8.5, loc="lower right")
        write_counts(right, arm.n)
        flat = all(np.array_equal(band.low, band.high) for _, *both in bands for band in both)
        note = (
            " They have no width: every resample separates the classes as these slides do; what so "
            "few patients leave open is in the interval of the AUROC."
        )
        return picture(
            figure,
            name,
            f"ROC and precision-recall curves of {arm.label}, {arm.n}. Bands: 95 % at each point, "
            "over resampled patients; curves of several trainings are averaged. Dotted: chance."
            + note
            * flat,
            f"ROC and precision-recall curves of {arm.label} with bands over patients.",
        )


def confusion(decided: NDArray[np.int64], labels: NDArray[np.int64], arm: ArmWords,
              name: str, threshold: str) -> Picture:  # fmt: skip
    """Confusion matrix: slides, and their share of the true class as shade.

    Args:
        decided: (S,) class that was decided for.
        labels: (S,) true class.
        arm: What it is of.
        name: Stem of the files.
        threshold: How the class was decided, in words.
    """
    n = len(arm.classes)
    counts = np.zeros((n, n), np.int64)
    np.add.at(counts, (labels, decided), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (C, C)
    with style():
        figure = new_figure(2.6 + 0.75 * n, 1.9 + 0.7 * n)
        axis = figure.add_subplot()
        image = axis.imshow(shares, cmap=SEQUENTIAL, vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            colour = "black" if shares[row, column] > 0.5 else "white"
            text = f"{count:,}\n{shares[row, column]:.0%}"
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
        axis.set_xticks(range(n), arm.classes)
        if n > 2:
            axis.tick_params("x", labelrotation=90)
        axis.set_yticks(range(n), arm.classes)
        axis.set(xlabel="Predicted", ylabel="Label")
        axis.grid(visible=False)
        figure.colorbar(image, ax=axis, label="Share of the label")
        figure.suptitle(arm.n, fontsize=8.5, color="#4b5563")
        said = "; ".join(
            f"of {counts[row].sum()} {arm.classes[row]} {counts[row, row]} are right"
            for row in range(n)
        )
        return picture(
            figure,
            name,
            f"Confusion matrix of {arm.label}, {arm.n}: slides, and their share of the label. "
            f"{threshold}",
            f"Confusion matrix of {arm.label}: {said}.",
        )


def rates_at(predictions: Predictions, thresholds: NDArray[np.float64]) -> Rates | None:
    """Sensitivity and specificity with intervals over patients; None where undefined.

    Args:
        predictions: Test predictions of two classes.
        thresholds: (S,) the threshold of the training that each row comes from.
    """
    decided = decide_at(predictions, thresholds).astype(np.float64)
    rows = Predictions(
        predictions.slide_ids, predictions.patients, predictions.y, decided, predictions.folds
    )
    low, high = float(thresholds.min()), float(thresholds.max())
    words = f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
    try:
        found, spared = (bootstrap_interval(rows, rate) for rate in (sensitivity, specificity))
    except AnalysisError:
        return None
    return Rates(words, found, spared)


def decide_at(
    predictions: Predictions, thresholds: NDArray[np.float64] | None
) -> NDArray[np.int64]:
    """Class (S,) of each row: by its threshold if there is one, else the most probable."""
    if thresholds is None:
        return decide(predictions.s)
    scores = predictions.s if predictions.s.ndim == 1 else predictions.s[:, 1]
    return np.asarray(scores >= thresholds, np.int64)


def calibration(
    predictions: Predictions,
    arm: ArmWords,
    name: str,
    error: str = "",
    after: Predictions | None = None,
) -> Picture | None:
    """Observed against predicted share in bins of equal counts, with intervals.

    Args:
        predictions: Test predictions.
        arm: What it is of.
        name: Stem of the files.
        error: The expected calibration error with its interval, in words.
        after: The same once they are calibrated; drawn of two classes.
    """
    scores = predictions.s
    columns = np.stack([1 - scores, scores], axis=1) if scores.ndim == 1 else scores  # (S, C)
    lines = [(arm.classes[c], predictions.y == c, columns[:, c]) for c in arm.shown]
    if after is not None and len(arm.classes) == 2:
        lines.append((f"{arm.classes[1]}, calibrated", after.y == 1, after.s[:, 1]))
    try:
        points = [
            calibration_bins(of_class.astype(np.int64), chance, predictions.patient_index)
            for _, of_class, chance in lines
        ]
    except AnalysisError:
        return None
    with style():
        figure = new_figure(4.8, 4.9)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        top.plot([0, 1], [0, 1], ":", color="#6b7280", label="perfectly calibrated")
        for number, ((label, _, chance), bins) in enumerate(zip(lines, points, strict=True)):
            _draw_bins(top, bins, number, label)
            bottom.hist(chance, bins=np.linspace(0, 1, 21).tolist(),
                        histtype="stepfilled" if len(points) == 1 else "step",
                        color=COLOURS[number], linestyle=_DASHES[number % 4])  # fmt: skip
        top.set(ylabel="Observed share", xlim=(-0.02, 1.02), ylim=(-0.03, 1.03))
        bottom.set(xlabel="Predicted probability of the class", ylabel="Slides")
        top.legend(fontsize=8.5, loc="upper left")
        write_counts(top, arm.n)
        return picture(
            figure,
            name,
            f"Calibration of {arm.label}, {arm.n}, in bins of equally many slides. Bars: 95 % "
            f"intervals (Wilson, by patients). Below: how often each probability is given.{error}",
            f"Calibration plot of {arm.label}.{error}",
        )


def _draw_band(axis: Axes, band: Band, number: int, label: str) -> None:
    colour = COLOURS[number]
    axis.fill_between(GRID, band.low, band.high, color=colour, alpha=0.15, linewidth=0)
    axis.plot(GRID, band.value, _DASHES[number % 4], color=colour, linewidth=1.8, label=label)
    if band.chance is not None:
        axis.axhline(band.chance, color="#6b7280", linestyle=":", linewidth=1.2)


def _draw_bins(axis: Axes, bins: CalibrationBins, number: int, label: str) -> None:
    below, above = bins.observed - bins.low, bins.high - bins.observed  # (bins,) each
    axis.errorbar(
        bins.predicted, bins.observed, yerr=np.stack([below, above]), marker=MARKERS[number],
        color=COLOURS[number], markersize=5, linewidth=1.4, elinewidth=0.9, capsize=2, label=label,
    )  # fmt: skip
