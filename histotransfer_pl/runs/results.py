"""How well each arm did, with intervals over patients; and the sweet spot of depths."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.stats import t as student

from histotransfer_pl.analysis.bootstrap import Interval, bootstrap_interval
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.runs.arms import Arm, compare_arms
from histotransfer_pl.runs.evaluation import MetricResult, evaluate_predictions

CEILING = 0.995
"""An AUROC above this leaves so little to gain that depths cannot be told apart by it."""


@dataclass(frozen=True, eq=False)
class ArmResult:
    """An arm with its metrics.

    Attributes:
        arm: The arm.
        metrics: By name; empty where the predictions cannot be used.
        complete: Whether it was tested on all folds and seeds that most arms were.
        problem: Why there is no such metric, or what is odd.
        of_patients: The same with the slides of a patient as one, where that is another number.
    """

    arm: Arm
    metrics: dict[str, MetricResult]
    complete: bool
    problem: str = ""
    of_patients: Interval | None = None

    @property
    def score(self) -> Interval | None:
        """The watched metric (AUROC of classes) with its interval, if defined."""
        watched = self.metrics.get(self.arm.outcome.watched)
        return None if watched is None else watched.interval

    @property
    def caveat(self) -> str:
        """What a reader of the numbers must know."""
        if self.problem:
            return self.problem
        few = "" if self.complete else "fewer folds or seeds than the others"
        pooled = (
            f"{self.arm.title} pooled over folds, for some test folds lack a class or event"
            if (self.arm.pooled)
            else ""
        )
        return "; ".join(filter(None, (few, pooled)))


def evaluate_arms(arms: Sequence[Arm], *, n_resamples: int = 2000) -> list[ArmResult]:
    """Intervals of every arm of one task, in the order given.

    An arm that lacks folds or seeds is evaluated on those it has and marked incomplete.
    """
    if not arms:
        return []
    usual = Counter(frozenset(arm.cells) for arm in arms)
    # The set of folds that most arms share; of equally common ones the larger.
    full = max(usual, key=lambda cells: (usual[cells], len(cells)))
    return [_evaluate(arm, frozenset(arm.cells) >= full, n_resamples) for arm in arms]


def _evaluate(arm: Arm, complete: bool, n_resamples: int) -> ArmResult:
    try:
        found = evaluate_predictions(arm.predictions(), arm.outcome, n_resamples=n_resamples)
    except AnalysisError as error:
        return ArmResult(arm, {}, complete, str(error))
    metrics = {result.name: result for result in found}
    problem = found[0].problem
    return ArmResult(arm, metrics, complete, problem, _of_patients(arm, n_resamples))


def _of_patients(arm: Arm, n_resamples: int) -> Interval | None:
    if arm.n_patients() == arm.n_slides():
        return None
    try:
        return bootstrap_interval(
            arm.predictions(patients=True), arm.watched, n_resamples=n_resamples
        )
    except AnalysisError:
        return None  # a patient of several classes, or too few of them: slides are shown alone


def best_result(results: Sequence[ArmResult]) -> ArmResult | None:
    """The complete arm with the highest score; of equal ones the first."""
    able = [r for r in results if r.complete and r.score is not None]
    return max(able, key=_score, default=None)


def ranked(results: Sequence[ArmResult]) -> list[ArmResult]:
    """Arms from the highest score down; behind them those tested on fewer folds or seeds."""
    return sorted(results, key=lambda r: (r.complete, _score(r)), reverse=True)


def _score(result: ArmResult) -> float:
    return -math.inf if result.score is None else result.score.estimate


@dataclass(frozen=True)
class SweetSpot:
    """The shallowest depth that is as good as the best.

    Attributes:
        place: Its place among the depths.
        best: Place of the best depth.
        note: Why it must be read with care; empty if it need not.
    """

    place: int
    best: int
    note: str = ""


def sweet_spot(
    results: Sequence[ArmResult], allowed: Sequence[bool] | None = None
) -> SweetSpot | None:
    """The shallowest depth whose difference to the best is within one standard error of it.

    The error is that of the paired difference over patients: both depths are rated on the same
    slides, and seeds are averaged within each fold before. So repeating seeds does not shrink it,
    and a single split has one. The rule is the one-standard-error rule of Breiman et al. (1984).

    Args:
        results: One per depth, from shallow to deep.
        allowed: Which of them may be called so: not those that are no better than a control.

    Returns:
        None where no depth has a score, or none that is allowed is as good as the best.
    """
    scores = [_score(result) for result in results]
    best = scores.index(max(scores))
    if results[best].score is None:
        return None
    for place, result in enumerate(results):
        if (allowed is None or allowed[place]) and (
            place == best or _is_as_good(result, results[best])
        ):
            return SweetSpot(place, best, _ceiling(scores))
    return None


def _ceiling(scores: Sequence[float]) -> str:
    if max(scores) - min(scores) < 1e-12:
        return "all depths score alike, so the scores cannot tell them apart"
    if max(scores) > CEILING:
        return f"the best score is {max(scores):.4f}: at the ceiling, where depths hardly differ"
    return ""


def _is_as_good(result: ArmResult, best: ArmResult) -> bool:
    try:
        found = compare_arms(best.arm, result.arm)
    except AnalysisError:
        return False  # not shown to be as good
    if found.difference.estimate <= 0:
        return True
    # |difference| / error follows Student's t, so p says whether the ratio is above 1
    return bool(found.p_value >= 2 * student.sf(1, found.degrees_of_freedom))


def results_frame(results: Sequence[ArmResult]) -> pd.DataFrame:
    """One row per arm, best first: every metric with its limits."""
    frame = pd.DataFrame([_row(result) for result in ranked(results)])
    patient = f"patient_{results[0].arm.outcome.watched}" if results else "settings"
    empty = [name for name in ("settings", patient) if (frame[name].isin(["", None])).all()]
    empty += [f"{patient}_low", f"{patient}_high"] if patient in empty else []
    return frame.drop(columns=empty)


def _row(result: ArmResult) -> dict[str, object]:
    arm = result.arm
    row: dict[str, object] = {**arm.key.words(), "trainings": len(arm.cells)}
    row |= {"seeds": len({cell.seed for cell in arm.cells})}
    row |= {"n_slides": arm.n_slides(), "n_patients": arm.n_patients()}
    for name in arm.outcome.titles:
        metric = result.metrics.get(name)
        row |= limits(name, None if metric is None else metric.interval)
        row[name] = None if metric is None else metric.value
    patients = limits(f"patient_{arm.outcome.watched}", result.of_patients)
    return {**row, **patients, "remark": result.caveat}


def limits(name: str, interval: Interval | None) -> dict[str, object]:
    """An estimate and its limits as columns of a table; empty without one."""
    if interval is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def span(interval: Interval | None) -> str:
    """An estimate with its interval, as the tables show it."""
    if interval is None:
        return "–"
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def results_text(results: Sequence[ArmResult]) -> str:
    """The results for a terminal, best first; columns that say the same of all are left out."""
    rows = [
        {
            **result.arm.key.words(),
            "seeds": len({cell.seed for cell in result.arm.cells}),
            "slides": result.arm.n_slides(),
            "patients": result.arm.n_patients(),
            result.arm.outcome.watched: span(result.score).replace("–", "-"),
            "note": result.caveat,
        }
        for result in ranked(results)
    ]
    shown = pd.DataFrame(rows)
    always = ("encoder", "slides", "patients", *(r.arm.outcome.watched for r in results[:1]))
    kept = [
        name
        for name in shown
        if name in always or shown[name].nunique() > 1 or (name == "note" and shown[name].any())
    ]
    return shown[kept].to_string(index=False)
