"""From run folders to the report: read, evaluate, draw, write."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.records.files import write_text
from histotransfer_pl.report.cohort import CohortPage, describe_cohort
from histotransfer_pl.report.costs import costs_table
from histotransfer_pl.report.curves import against_cost, against_depth, forest
from histotransfer_pl.report.evaluation import evaluate
from histotransfer_pl.report.gain import gain_figure, read_gains
from histotransfer_pl.report.page import MatrixSection, Page, TaskSection, render
from histotransfer_pl.report.panels import SlidePanel, has_attention, how_chosen, slide_panels
from histotransfer_pl.report.protocol import describe_protocol, missing_table, steps_table
from histotransfer_pl.report.similarity import (
    Similarity,
    diagonals,
    facts_in_words,
    heatmap,
    read_similarities,
)
from histotransfer_pl.report.sites import describe_sites
from histotransfer_pl.report.story import answer_questions, insights
from histotransfer_pl.report.summary import summarise
from histotransfer_pl.report.survival import survival_by_risk
from histotransfer_pl.report.table import Table
from histotransfer_pl.report.tables import (
    contrasts_table,
    external_table,
    results_table,
    tuning_table,
)
from histotransfer_pl.runs.arms import Arm, MissingRun
from histotransfer_pl.runs.comparison import TaskResults, compare_study
from histotransfer_pl.runs.contrasts import Contrast
from histotransfer_pl.runs.results import ranked
from histotransfer_pl.runs.state import DONE, FAILED, WAITING
from histotransfer_pl.runs.study import Study

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
    """Write ``index.html``, ``tables/*.csv``, ``figures/*`` and their list ``files.txt``.

    Nothing that is missing or fails stops it: the page says what, and shows the rest.
    """
    page = make_page(study, settings)
    written = [path for table in page.tables() for path in table.write(folder / "tables")]
    for picture in page.pictures():
        written += picture.write(folder / "figures")
    for task in page.tasks:
        for panel in task.panels:
            written += panel.write(folder / "figures" / "slides")
    html = folder / "index.html"
    write_text(html, render(page))
    _remove_older(folder, written)
    return Report(html, page, folder)


def _remove_older(folder: Path, written: Sequence[Path]) -> None:
    """Remove what the report before this one wrote and this one does not, and nothing else.

    A list of missing runs would otherwise outlive them, beside a page that says that all are there.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in written)
    listed = folder / "files.txt"
    older = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    for name in set(older) - set(names):
        if name.startswith(("tables/", "figures/")) and ".." not in name.split("/"):
            (folder / name).unlink(missing_ok=True)
    write_text(listed, "\n".join(names) + "\n")


def make_page(study: Study, settings: Settings) -> Page:
    """Everything the page shows."""
    found = compare_study(study, n_resamples=settings.resamples)
    arms, missing, twice = found.arms, found.missing, found.twice
    problems = [*_problems_of_tasks(found.tasks), *found.apart]
    tasks = [
        _task(one, settings, _Name(number, len(found.tasks)))
        for number, one in enumerate(found.tasks)
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
        story=answer_questions(
            study, arms, found.store, similarity=bool(matrices), gain=bool(gains)
        ),
        tasks=tasks,
        similarities=[_matrix(one) for one in matrices],
        diagonal=diagonals(matrices),
        gains=[
            MatrixSection(c.name, gain_figure(c), c.as_table(), facts_in_words(c.facts))
            for c in gains
        ],
        protocol=describe_protocol(study, arms, found.store, found.cohort),
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


def _task(found: TaskResults, settings: Settings, name: _Name) -> TaskSection:
    best, curves = found.best, found.curves
    panels = _panels(found, settings) if settings.n_slides else []
    task = found.arms[0].task
    sites = describe_sites(found, name, settings.resamples)
    summary = summarise(found.results, found.planned, found.ranking, curves)
    if sites is not None:
        summary = replace(summary, answers=(*summary.answers, *sites.answers))
    return TaskSection(
        title="" if name.of == 1 else f"{task.target} of {task.cohort} ({task.bag}s)",
        summary=summary,
        results=results_table(found.results, name("arms")),
        forest=forest(found.results, name("arms")),
        planned=_contrasts(found.planned, name("contrasts"), _PLANNED, _PLANNED_NOTE),
        ranking=_contrasts(
            found.ranking,
            name("best_against_rest"),
            f"{best.arm.label} against every other arm" if best else "",
            _RANKING_NOTE,
        ),
        depth=against_depth(curves, found.colour, name("depth")),
        cost=against_cost(curves, name("cost")),
        costs=costs_table(curves, found.costs, name("depth_and_cost")) if curves else None,
        costs_note=found.costs_note,
        tuning=tuning_table(found.results, name("tuning_cost")),
        evaluation=evaluate(best, name)
        if best is not None and best.arm.outcome.task == "classification"
        else None,
        survival=survival_by_risk(best, name("survival")) if best is not None else None,
        sites=sites,
        cohort=_cohort(found, name("splits")),
        external=external_table(found.external, name("external")),
        panels=panels,
        panels_note=_panels_note(panels, found.arms[0].outcome),
    )


_PLANNED = "Arms that differ in one thing only"
_PLANNED_NOTE = (
    "First less second, on the test slides of the trainings that both have (so a value here may "
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


def _panels(found: TaskResults, settings: Settings) -> list[SlidePanel]:
    """Slides of the first training of the best arm whose attention was written."""
    if found.store is None:
        return []
    for result in ranked(found.results):
        for run in result.arm.runs:
            if run.task.bag == "slide" and has_attention(run, found.store):
                return slide_panels(run, found.store, settings.n_slides, settings.top_k)
    return []


def _panels_note(panels: Sequence[SlidePanel], outcome: Outcome) -> str:
    if not panels:
        return ""
    return (
        f"Attention of run {panels[0].run} on slides it was tested on: {how_chosen(outcome)}. "
        "Colours are the weight of a patch in multiples of what it would get if all weighed the "
        "same; the scale is the same for every slide. Outlined: top attention, the highest 5 % at "
        "most and above the average. Attention says what the head used, not where the disease is."
    )


def _cohort(found: TaskResults, name: str) -> CohortPage | None:
    if found.store is None or found.cohort is None:
        return None
    return describe_cohort(found.arms, found.store, found.cohort, name)


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


def _problems_of_tasks(tasks: Sequence[TaskResults]) -> list[str]:
    if len(tasks) < 2:
        return []
    named = "; ".join(f"{t.arms[0].task.target} of {t.arms[0].task.cohort}" for t in tasks)
    return [
        f"The runs are of {len(tasks)} different tasks ({named}). They are shown one beside the "
        "other; no difference is tested between them."
    ]
