"""The verb ``doctor``: what would go wrong, before it does."""

from pathlib import Path

from histotransfer_pl.cli.answer import print_line
from histotransfer_pl.cli.functions import run_function
from histotransfer_pl.data.checkup import (
    Finding,
    Work,
    check_encoder,
    check_labels,
    check_slides,
    check_store,
    estimate_work,
)
from histotransfer_pl.data.cohort import (
    SlideEntry,
    SlideMpp,
    read_cohort,
    resolve_mpp,
    slides_from_cohort,
    slides_from_folder,
)
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.errors import CohortError, ConfigError
from histotransfer_pl.records.grid import GridSettings


def doctor(arguments: list[str]) -> int:
    """Look at slides, labels, weights, space and the store before a long job."""
    return run_function(_doctor, arguments, "doctor")


def _doctor(
    slides: Path | None = None,
    cohort: Path | None = None,
    target: str = "label",
    n_folds: int = 5,
    store: Path | None = None,
    encoder: EncoderConfig | None = None,
    grid: GridSettings = GridSettings(),
    slide_mpp: SlideMpp = None,
    sample: int = 5,
) -> int:
    """Look at slides, labels, weights, space and the store before a long job.

    Whatever is given is looked at. The exit code is 1 if anything stands in the way.

    Args:
        slides: Folder of the slides.
        cohort: Cohort table.
        target: Its column with the class.
        n_folds: Folds that a fit will want.
        store: Store, which is read whole if it exists.
        encoder: Encoder to build; with slides, time and space are estimated too.
        grid: Patches to count.
        slide_mpp: Micrometres per pixel of level 0 for slides that know none, or ``native``.
        sample: Slides to tile for the estimate.
    """
    if slides is None and cohort is None and store is None and encoder is None:
        raise ConfigError("nothing to look at: give --slides, --cohort, --store or --encoder.name")
    findings: list[Finding] = []
    work: Work | None = None
    readable: set[str] | None = None
    given_mpp = resolve_mpp(slide_mpp, grid.mpp)
    entries, problems = _entries(slides, cohort, grid)
    findings += problems
    if entries:
        found, good = check_slides(entries, grid, given_mpp)
        findings += found
        readable = {entry.slide_id for entry in good}
        if good:
            found, work = estimate_work(good, grid, sample, given_mpp)
            findings += found
    if cohort is not None:
        said = {finding.text for finding in problems}  # a table that can't be read fails twice
        labels = check_labels(cohort, target, n_folds, readable)
        findings += (finding for finding in labels if finding.text not in said)
    if encoder is not None:
        findings += check_encoder(encoder, grid, work, store or Path())
    if store is not None and store.exists():
        findings += check_store(store)
    return _print(findings)


def _entries(
    slides: Path | None, cohort: Path | None, grid: GridSettings
) -> tuple[list[SlideEntry], list[Finding]]:
    """The slides of the folder or the table; a table alone may name no files."""
    try:
        if cohort is not None and (slides is not None or "path" in read_cohort(cohort)):
            return slides_from_cohort(cohort, slides, grid.mpp), []
        return (slides_from_folder(slides) if slides is not None else []), []
    except CohortError as error:
        return [], [Finding("slides", str(error), problem=True)]


def _print(findings: list[Finding]) -> int:
    for finding in findings:
        print_line(
            f"{'PROBLEM' if finding.problem else 'ok     '} {finding.subject:<8} {finding.text}"
        )
    problems = sum(finding.problem for finding in findings)
    print_line(f"{problems} problem{'' if problems == 1 else 's'}")
    return 1 if problems else 0
