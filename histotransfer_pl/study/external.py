"""Steps on another cohort: its features, and every training tested on all of its slides."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from histotransfer_pl.runs.external import EXTERNAL
from histotransfer_pl.runs.steps import Step
from histotransfer_pl.study.commands import extract_step
from histotransfer_pl.study.config import StudyConfig
from histotransfer_pl.study.options import step_name


def external_extractions(
    config: StudyConfig, depths: Mapping[str, Sequence[str]]
) -> Iterator[Step]:
    """The encoders of the study over the slides of the other cohort."""
    if config.external is None or config.external_store is not None:
        return
    there = _for_other_cohort(config, config.external)
    for encoder in config.encoders:
        step = extract_step(there, encoder, depths[encoder.store_name], ())
        yield replace(step, name=step_name("extract", EXTERNAL, encoder.store_name))


def external_steps(config: StudyConfig, fit: Step, encoder: str) -> Iterator[Step]:
    """A fit tested on every labelled slide of the other cohort."""
    if config.external is None:
        return
    store = config.external_store or _for_other_cohort(config, config.external).store_path
    own = () if config.external_store else (step_name("extract", EXTERNAL, encoder),)
    folder = fit.run_folder / EXTERNAL
    yield replace(
        fit,
        name=step_name(EXTERNAL, fit.name.removeprefix("fit-")),
        kind=EXTERNAL,
        argv=(
            *("test", "--run_dir", str(fit.run_folder)),
            *("--data.cohort", str(config.external), "--data.store", str(store)),
            *("--output_dir", str(folder)),
        ),
        needs=(*own, fit.name),
        inputs=(str(config.external),),
        outputs=(str(folder / "test_predictions.csv"),),
    )


def _for_other_cohort(config: StudyConfig, cohort: Path) -> StudyConfig:
    """The study as if it were one of the other cohort; its store lies in a folder of its own."""
    slides, mpp = config.external_slides, config.external_slide_mpp
    folder = config.folder / EXTERNAL
    return replace(config, study_dir=folder, cohort=cohort, slides=slides, slide_mpp=mpp)
