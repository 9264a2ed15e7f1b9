"""From run folders to the report: read, evaluate, draw, write."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from histotransfer_pl.errors import StoreError
from histotransfer_pl.records.files import write_text
from histotransfer_pl.report.cohort import CohortPage, describe_cohort
from histotransfer_pl.report.costs import (
    colour_alone,
    costs_table,
    depth_curves,
    depth_order,
    networks_of,
    read_costs,
)
from histotransfer_pl.report.curves import against_cost, against_depth, forest
from histotransfer_pl.report.evaluation import evaluate
from histotransfer_pl.report.gain import gain_figure, read_gains
from histotransfer_pl.report.page import MatrixSection, Page, TaskSection, render
from histotransfer_pl.report.panels import SlidePanel, has_attention, slide_panels
from histotransfer_pl.report.protocol import describe_protocol, missing_table, steps_table
from histotransfer_pl.report.similarity import (
    Similarity,
    diagonals,
    facts_in_words,
    heatmap,
    read_similarities,
)
from histotransfer_pl.report.story import answer_questions, insights
from histotransfer_pl.report.summary import summarise
from histotransfer_pl.report.table import Table
from histotransfer_pl.report.tables import contrasts_table, external_table, results_table
from histotransfer_pl.runs.arms import (
    Arm,
    MissingRun,
    group_arms,
    other_settings,
    read_runs,
    tasks_of,
)
from histotransfer_pl.runs.contrasts import Contrast, planned_contrasts, ranking_contrasts
from histotransfer_pl.runs.external import read_external
from histotransfer_pl.runs.results import ArmResult, best_result, evaluate_arms, ranked
from histotransfer_pl.runs.state import DONE, FAILED, WAITING
from histotransfer_pl.runs.study import Study
from histotransfer_pl.store.feature_store import FeatureStore

_log = logging.getLogger(__name__)
FEW_PATCHES = 1000
_NAMED = 3


@dataclass(frozen=True)
class Settings:
    """What the report shows.

    Attributes:
        n_slides: Test slides with pictures; 0 for none.
        top_k: Patches shown of each.
        resamples: Resamples of each interval.
    """

    n_slides: int = 4
    top_k: int = 8
    resamples: int = 2000


@dataclass(frozen=True, eq=False)
class Report:
    """A report that was written.

    Attributes:
        html: The page.
        page: What it holds.
        folder: The folder it is in, with its tables and figures.
    """

    html: Path
    page: Page
    folder: Path


def build_report(study: Study, folder: Path, settings: Settings) -> Report:
    """Write ``index.html``, ``tables/*.csv`` and ``figures/*`` into a folder.

    Nothing that is missing or fails stops it: the page says what, and shows the rest.
    """
    page = make_page(study, settings)
    for table in page.tables():
        table.write(folder / "tables")
    for picture in page.pictures():
        picture.write(folder / "figures")
    for task in page.tasks:
        for panel in task.panels:
            panel.write(folder / "figures" / "slides")
    html = folder / "index.html"
    write_text(html, render(page))
    return Report(html, page, folder)


def make_page(study: Study, settings: Settings) -> Page:
    """Everything the page shows."""
    runs, missing = read_runs(study.runs)
    arms, twice = group_arms(runs)
    groups = tasks_of(arms)
    store, cohort = _find_store(study, arms), _find_cohort(study, arms)
    problems = [*_problems_of_tasks(groups), *other_settings(runs)]
    tasks = [
        _task(study, group, settings, _Name(number, len(groups)))
        for number, group in enumerate(groups)
    ]
    matrices, wrong = read_similarities(study.folder)
    gains, damaged = read_gains(study.folder)
    gaps = [missing_table([*missing, *twice]), steps_table(study)]
    if tasks:
        more = insights(matrices, gains)
        summary = replace(tasks[0].summary, answers=(*tasks[0].summary.answers, *more))
        tasks[0] = replace(tasks[0], summary=summary)
    return Page(
        name=study.plan.name,
        badges=_badges(study, arms, [*missing, *twice]),
        notice=_what_is_missing(study, missing, twice),
        note=study.plan.note,
        story=answer_questions(study, arms, store, similarity=bool(matrices), gain=bool(gains)),
        tasks=tasks,
        similarities=[_matrix(one) for one in matrices],
        diagonal=diagonals(matrices),
        gains=[
            MatrixSection(c.name, gain_figure(c), c.as_table(), facts_in_words(c.facts))
            for c in gains
        ],
        protocol=describe_protocol(study, arms, store, cohort),
        missing=[t for t in gaps if t is not None and len(t.page)],
        problems=[*problems, *wrong, *damaged],
        resamples=settings.resamples,
    )


@dataclass(frozen=True)
class _Name:
    """Which of several tasks this is, so that its files have names of their own."""

    number: int
    of: int

    def __call__(self, stem: str) -> str:
        return stem if self.of == 1 else f"{stem}_{self.number + 1}"


def _task(study: Study, arms: Sequence[Arm], settings: Settings, name: _Name) -> TaskSection:
    results = evaluate_arms(arms, n_resamples=settings.resamples)
    store, cohort = _find_store(study, arms), _find_cohort(study, arms)
    networks = networks_of(study, arms, store)
    costs, note = read_costs(study.folder, networks)
    order = depth_order(arms, costs)
    planned = planned_contrasts(results, order)
    best = best_result(results)
    ranking = [] if best is None else ranking_contrasts(results, best.arm)
    curves = depth_curves(results, order, costs, networks)
    elsewhere = read_external(arms, n_resamples=settings.resamples)
    panels = _panels(results, store, settings) if store is not None and settings.n_slides else []
    task = arms[0].task
    return TaskSection(
        title="" if name.of == 1 else f"{task.target} of {task.cohort} ({task.bag}s)",
        summary=summarise(results, planned, ranking, curves),
        results=results_table(results, name("arms")),
        forest=forest(results, name("arms")),
        planned=_contrasts(planned, name("contrasts"), _PLANNED, _PLANNED_NOTE),
        ranking=_contrasts(
            ranking,
            name("best_against_rest"),
            f"{best.arm.label} against every other arm" if best else "",
            _RANKING_NOTE,
        ),
        depth=against_depth(curves, colour_alone(results, networks), name("depth")),
        cost=against_cost(curves, name("cost")),
        costs=costs_table(curves, costs, name("depth_and_cost")) if curves else None,
        costs_note=note,
        evaluation=None if best is None else evaluate(best, name),
        cohort=_cohort(arms, store, cohort, name("splits")),
        external=external_table(elsewhere, name("external")),
        panels=panels,
        panels_note=_panels_note(panels),
    )


_PLANNED = "Arms that differ in one thing only"
_PLANNED_NOTE = (
    "First less second, on the test slides of the trainings that both have (so an AUROC here may "
    "differ from the one above), with a 95 % interval over patients. Depths are "
    "held against the deepest, tuned encoders against the frozen one and top-k against the "
    "control patches. The last p is corrected over all rows by Holm's method."
)
_RANKING_NOTE = (
    "p is corrected over all pairs of arms, not only those shown, because the best was picked by "
    "these very results."
)


def _contrasts(contrasts: Sequence[Contrast], name: str, caption: str, note: str) -> Table | None:
    return contrasts_table(contrasts, name, caption, note) if contrasts else None


def _panels(
    results: Sequence[ArmResult], store: FeatureStore, settings: Settings
) -> list[SlidePanel]:
    """Slides of the first training of the best arm whose attention was written."""
    for result in ranked(results):
        for run in result.arm.runs:
            if run.task.bag == "slide" and has_attention(run, store):
                return slide_panels(run, store, settings.n_slides, settings.top_k)
    return []


def _panels_note(panels: Sequence[SlidePanel]) -> str:
    if not panels:
        return ""
    return (
        f"Attention of run {panels[0].run} on slides it was tested on: of each class the one most "
        "surely right, then the one most surely wrong, and so on. Colours are the weight of a "
        "patch in multiples of what it would get if all weighed the same; the scale is the same "
        "for every slide. Outlined: top attention, the highest 5 % at most and above the average. "
        "Attention says what the head used, not where the disease is."
    )


def _cohort(
    arms: Sequence[Arm], store: FeatureStore | None, cohort: Path | None, name: str
) -> CohortPage | None:
    if store is None or cohort is None:
        return None
    return describe_cohort(arms, store, cohort, name)


def _find_store(study: Study, arms: Sequence[Arm]) -> FeatureStore | None:
    """The store that the runs read, wherever the study is now."""
    for location in _locations(study, arms, "store"):
        try:
            return FeatureStore.open(location)
        except StoreError as error:
            _log.warning("the report goes without slides: %s", error)
    return None


def _find_cohort(study: Study, arms: Sequence[Arm]) -> Path | None:
    return next((path for path in _locations(study, arms, "cohort") if path.is_file()), None)


def _locations(study: Study, arms: Sequence[Arm], setting: str) -> Iterator[Path]:
    """Where a file of the runs may lie; each place once."""
    names = dict.fromkeys(str(run.data[setting]) for arm in arms for run in arm.runs[:1])
    for name in names:
        yield study.places.find(name)


def _matrix(one: Similarity) -> MatrixSection:
    few = one.facts.get("n", FEW_PATCHES)
    warning = ""
    if isinstance(few, int) and few < FEW_PATCHES:
        warning = f"Only {few} patches: such values are uncertain; use {FEW_PATCHES:,} or more."
    facts = [("file", f"similarity/{one.name}.csv"), *facts_in_words(one.facts)]
    return MatrixSection(one.title, heatmap(one), one.as_table(), facts, warning)


def _badges(
    study: Study, arms: Sequence[Arm], missing: Sequence[MissingRun]
) -> list[tuple[str, str]]:
    runs = [run for arm in arms for run in arm.runs]
    slides = {s for run in runs for s in run.table["slide_id"]}
    patients = {p for run in runs for p in run.table["patient_id"]}
    badges = [
        ("Test slides", f"{len(slides):,}"),
        ("Patients", f"{len(patients):,}"),
        ("Arms", str(len(arms))),
        ("Trainings", f"{len(runs)} of {len(runs) + len(missing)}"),
    ]
    if study.steps:
        badges.append(("Steps done", f"{study.count(DONE)} of {len(study.steps)}"))
    return badges


def _what_is_missing(
    study: Study, missing: Sequence[MissingRun], twice: Sequence[MissingRun]
) -> str:
    """What is not in the comparison, above all else."""
    return " ".join(filter(None, [_incomplete(study, missing), _left_out(twice)]))


def _left_out(twice: Sequence[MissingRun]) -> str:
    """Runs that were dropped although they have predictions."""
    if not twice:
        return ""
    names = ", ".join(run.name for run in twice[:_NAMED]) + (", ..." if twice[_NAMED:] else "")
    return (
        f"{len(twice)} run{'s are' if len(twice) > 1 else ' is'} left out, because another of the "
        f"same arm, fold and seed comes before: {names}. Give each fold and seed once."
    )


def _incomplete(study: Study, missing: Sequence[MissingRun]) -> str:
    """One sentence when the study is not complete."""
    failed, waiting = study.count(FAILED), study.count(WAITING)
    parts = []
    if failed:
        parts.append(f"{failed} step{'s' if failed > 1 else ''} failed")
    if waiting:
        noun = "" if failed else " steps" if waiting > 1 else " step"
        parts.append(f"{waiting}{noun} {'are' if waiting > 1 else 'is'} still to run")
    if missing and not parts:
        parts.append(f"{len(missing)} run{'s have' if len(missing) > 1 else ' has'} no predictions")
    if not parts:
        return ""
    return f"This study is not complete: {', '.join(parts)}. The page shows what there is."


def _problems_of_tasks(groups: Sequence[Sequence[Arm]]) -> list[str]:
    if len(groups) < 2:
        return []
    named = "; ".join(f"{g[0].task.target} of {g[0].task.cohort}" for g in groups)
    return [
        f"The runs are of {len(groups)} different tasks ({named}). They are shown one beside the "
        "other; no difference is tested between them."
    ]
