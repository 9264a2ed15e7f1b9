"""The page: what it holds, and its rendering to one self-contained file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.colors import to_hex

from histotransfer_pl.report.attention_scale import ATTENTION_COLOURS, AttentionScale
from histotransfer_pl.report.cohort import CohortPage
from histotransfer_pl.report.evaluation import Evaluation
from histotransfer_pl.report.figure import Picture
from histotransfer_pl.report.panels import SlidePanel
from histotransfer_pl.report.protocol import Protocol
from histotransfer_pl.report.sites import SitesSection
from histotransfer_pl.report.summary import Summary
from histotransfer_pl.report.table import Table

WORDS = (
    ("Slide", "a scanned piece of tissue, far too large for a network to see at once."),
    ("Patch", "a small square of a slide; the encoder sees patches."),
    ("Encoder", "a network that turns a patch into numbers (features), trained elsewhere before."),
    ("Depth", "the block after which the encoder is cut; a shallow cut is cheaper."),
    ("Head", "the small network that weighs the patches of a slide and names its class."),
    ("Attention", "the weight the head gives a patch; all weights of a slide add up to 1."),
    ("Frozen, tuned", "the encoder as it came, or trained further on k patches of each slide."),
    ("Arm", "one combination of these, trained once for every fold and seed."),
    ("Fold", "a share of the patients, kept aside to test; no patient trains and tests one model."),
    ("AUROC", "the chance that a slide of the class scores above one without it."),
    ("C-index", "of two slides, how often the riskier one has the event first; 0.5 is chance."),
    ("95 % interval", "where the value would plausibly lie with other patients."),
    ("Beyond chance", "a Holm-corrected p below 0.05: over all comparisons of the family, the "
     "chance of even one false finding is below 5 %."),
    ("CKA", "how alike two networks represent the same patches; 1 is alike, 0 unrelated."),
    ("Knowledge gain", "what pretraining adds at a layer over the same network untrained."),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class TaskSection:
    """Everything about the arms of one task."""

    title: str
    summary: Summary
    results: Table
    forest: Picture | None = None
    planned: Table | None = None
    ranking: Table | None = None
    depth: Picture | None = None
    cost: Picture | None = None
    costs: Table | None = None
    costs_note: str = ""
    tuning: Table | None = None
    evaluation: Evaluation | None = None
    survival: Picture | None = None
    external: Table | None = None
    sites: SitesSection | None = None
    cohort: CohortPage | None = None
    panels: Sequence[SlidePanel] = ()
    panels_note: str = ""


@dataclass(frozen=True, eq=False)
class MatrixSection:
    """One CKA matrix or one gain curve, with what was recorded beside it."""

    title: str
    picture: Picture
    table: Table
    facts: Sequence[tuple[str, str]] = ()
    warning: str = ""


@dataclass(frozen=True, eq=False)
class Page:
    """The whole report."""

    name: str
    badges: Sequence[tuple[str, str]]
    notice: str
    note: str
    story: Sequence[str]
    tasks: Sequence[TaskSection]
    similarities: Sequence[MatrixSection]
    diagonal: Picture | None
    gains: Sequence[MatrixSection]
    protocol: Protocol
    missing: Sequence[Table]
    problems: Sequence[str] = field(default_factory=list)
    resamples: int = 2000

    def tables(self) -> Iterator[Table]:
        """Every table of the page."""
        for part in (*self._parts(), self.protocol):
            yield from (value for value in _values(part) if isinstance(value, Table))
        for task in self.tasks:
            if task.cohort is not None and task.cohort.splits is not None:
                yield task.cohort.splits
        yield from self.missing

    def pictures(self) -> Iterator[Picture]:
        """Every figure of the page."""
        for part in self._parts():
            yield from (value for value in _values(part) if isinstance(value, Picture))
        if self.diagonal is not None:
            yield self.diagonal

    def _parts(self) -> list[object]:
        evaluations = [task.evaluation for task in self.tasks if task.evaluation is not None]
        sites = [task.sites for task in self.tasks if task.sites is not None]
        return [*self.tasks, *evaluations, *sites, *self.similarities, *self.gains]

    def media(self) -> dict[str, tuple[bytes, str]]:
        """PNG file and caption of every figure, and of the slides, by name."""
        panels = [panel for task in self.tasks for panel in task.panels if panel.figure is not None]
        shown = {f"slides/{one.slide_id}": one.figure for one in panels}
        shown |= {f"figures/{one.name}": one for one in self.pictures()}
        return {name: (one.png, one.caption) for name, one in shown.items() if one is not None}

    def best(self) -> dict[str, str]:
        """The best arm of each task and the metric that ranks it."""
        found: dict[str, str] = {}
        for task in self.tasks:
            prefix = f"{task.title}/" if task.title else ""
            found[f"{prefix}best"] = task.summary.headline
            found[f"{prefix}best_auroc"] = task.summary.estimate
        return found


def render(page: Page) -> str:
    """The page as HTML; every text in it is escaped."""
    environment = Environment(
        loader=PackageLoader("histotransfer_pl.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    stops = ", ".join(to_hex(ATTENTION_COLOURS(place / 8)) for place in range(9))
    ticks = AttentionScale().ticks()
    template = environment.get_template("page.html.jinja")
    return template.render(page=page, words=WORDS, stops=stops, ticks=ticks)


def _values(part: object) -> list[object]:
    return [getattr(part, item.name) for item in fields(part)]  # type: ignore[arg-type]
