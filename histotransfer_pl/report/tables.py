"""Tables of the page about arms: how well each did, and paired tests between them."""

from collections.abc import Sequence

import pandas as pd

from histotransfer_pl.report.costs import percent
from histotransfer_pl.report.table import Table
from histotransfer_pl.runs.contrasts import QUESTIONS, Contrast, differing
from histotransfer_pl.runs.external import ExternalResult, external_frame
from histotransfer_pl.runs.results import ArmResult, ranked, results_frame, span
from histotransfer_pl.runs.tuning_cost import tuning_costs

_PATIENTS = "of patients"


def results_table(results: Sequence[ArmResult], name: str) -> Table:
    """One row per arm, best first: every metric with its interval."""
    page = pd.DataFrame(
        [
            {
                "Arm": result.arm.label,
                **{
                    title: _cell(result, metric)
                    for metric, title in result.arm.outcome.titles.items()
                },
                _PATIENTS: span(result.of_patients).replace(" [", "\n["),
                "Trainings": str(len(result.arm.cells)),
                "Remark": result.caveat,
            }
            for result in ranked(results)
        ]
    )
    empty = {_PATIENTS: "–", "Remark": ""}
    page = page.drop(columns=[name for name, text in empty.items() if (page[name] == text).all()])
    title = results[0].arm.title if results else "AUROC"
    page = page.rename(columns={_PATIENTS: f"{title} of patients"})
    caption = "Every arm on its test slides, best first"
    return Table(name, caption, results_frame(results), page, latex=True)


def _cell(result: ArmResult, name: str) -> str:
    """The interval below its estimate, so that the columns are narrow."""
    metric = result.metrics.get(name)
    if metric is None or metric.value is None:
        return "–"
    if metric.interval is None:
        return f"{metric.value:.3f}\nno interval"
    return span(metric.interval).replace(" [", "\n[")


def external_table(results: Sequence[ExternalResult], name: str) -> Table | None:
    """One row per arm that was tested on another cohort: its trainings alone, and together."""
    if not results:
        return None
    page = pd.DataFrame(
        [
            {
                "Arm": result.arm.label,
                f"{result.arm.title}, ensemble of the folds": span(result.slides),
                "The same, per patient": span(result.patients),
                f"{result.arm.title} of single trainings": _range(result.single),
                "Slides": str(result.arm.n_slides()),
                "Patients": str(result.arm.n_patients()),
                "Remark": result.problem,
            }
            for result in results
        ]
    )
    frame = external_frame(results)
    note = (
        "Slides that no training has seen. The ensemble is the mean of the scores that the "
        "trainings of all folds give; with several seeds the mean over their ensembles."
    )
    return Table(name, "Every arm on the slides of another cohort", frame, page, note)


def _range(values: Sequence[float]) -> str:
    return "–" if not values else f"{min(values):.3f} to {max(values):.3f} (n = {len(values)})"


def tuning_table(results: Sequence[ArmResult], name: str) -> Table | None:
    """One row per arm whose encoder was tuned: what trained, and what it took."""
    frame = tuning_costs([result.arm for result in ranked(results)])
    if frame.empty:
        return None
    auroc = {r.arm.label: r.score for r in results}
    page = pd.DataFrame(
        [
            {
                "Arm": row["arm"],
                results[0].arm.title: span(auroc[row["arm"]]),
                "Trained parameters": f"{row['trained_parameters']:,.0f}"
                f" ({percent(row['trained_share'])})",
                "Memory of a step": f"{row['peak_mib']:,.0f} MiB",
                "Seconds per epoch": f"{row['seconds_per_epoch']:,.1f}",
                "Device": row["device"],
            }
            for row in frame.to_dict("records")
        ]
    )
    note = (
        "Parameters of the encoder up to its cut. Memory: weights, gradients, optimizer and "
        "activations of the first step. Seconds: training and validation, on the machine that ran "
        "the study; they differ from run to run. Means over trainings."
    )
    return Table(name, "What each way of tuning trains and takes", frame, page, note)


def contrasts_table(contrasts: Sequence[Contrast], name: str, caption: str, note: str) -> Table:
    """One row per pair: both values, the difference with its interval, both p-values."""
    raw = pd.DataFrame([_raw(c) for c in contrasts])
    page = pd.DataFrame([_row(c) for c in contrasts]).fillna("")
    return Table(name, caption, raw, page, note)


def _raw(c: Contrast) -> dict[str, object]:
    row: dict[str, object] = {"question": c.question, "first": c.first.label}
    row |= {"second": c.second.label, "trainings": c.trainings, "problem": c.problem}
    if c.comparison is None:
        return row
    d = c.comparison.difference
    name = c.first.outcome.watched
    row |= {f"{name}_first": c.comparison.first, f"{name}_second": c.comparison.second}
    row |= {"difference": d.estimate, "low": d.low, "high": d.high, "method": d.method}
    return {**row, "p": c.comparison.p_value, "p_holm": c.p_corrected}


def _row(c: Contrast) -> dict[str, str]:
    if not c.question:
        return {"Other arm": c.second.label, **_numbers(c), "Trainings": str(c.trainings)}
    first, second, shared = differing(c)
    who = {"First − second": f"{first} − {second}", "Question": QUESTIONS[c.question]}
    return {**who, **_numbers(c), "Trainings": str(c.trainings), "All else equal": shared}


def _numbers(c: Contrast) -> dict[str, str]:
    if c.comparison is None:
        empty = dict.fromkeys((c.first.title, "Difference [95 %]", "p", "p (Holm)"), "–")
        return {**empty, "Verdict": f"not comparable: {c.problem}"}
    d = c.comparison.difference
    return {
        c.first.title: f"{c.comparison.first:.3f} vs {c.comparison.second:.3f}",
        "Difference [95 %]": f"{d.estimate:+.3f} [{d.low:+.3f}, {d.high:+.3f}]",
        "p": p_text(c.comparison.p_value),
        "p (Holm)": p_text(c.p_corrected),
        "Verdict": _verdict(c),
    }


def _verdict(contrast: Contrast) -> str:
    if contrast.comparison is None:
        return ""
    if contrast.equal:
        return "equal"
    if not contrast.beyond_chance:
        return "within chance"
    better, worse = ("first", "second") if contrast.question else ("best arm", "other arm")
    return f"{better if contrast.comparison.difference.estimate > 0 else worse} better"


def p_text(p: float | None) -> str:
    """A p-value with as many digits as it deserves."""
    if p is None:
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
