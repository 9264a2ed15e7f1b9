"""The verb ``doctor`` on the file of a study."""

from collections.abc import Iterator
from pathlib import Path

from histotransfer_pl.cli.parser import file_parser
from histotransfer_pl.data.checkup import Finding, check_inputs, check_store
from histotransfer_pl.study.config import StudyConfig
from histotransfer_pl.study.forecast import Amount, forecast

_ASSUMED = Amount(slides=100, patches=1_000_000)


def study_findings(path: Path, sample: int, macs_per_s: float | None) -> Iterator[Finding]:
    """What a study would meet: slides, labels, weights, hours of a GPU, disk."""
    config = read_study(path)
    amount = None
    if config.prepare and not config.cohort.exists():
        yield Finding("slides", f"{config.cohort} is made by the study's first commands (prepare)")
    else:
        findings, work = check_inputs(
            config.slides,
            config.cohort,
            config.targets,
            config.folds.n_folds,
            config.grid,
            config.slide_mpp,
            sample,
        )
        yield from findings
        amount = None if work is None else Amount(work.slides, work.patches)
    if amount is None:
        text = "no slide was counted: the numbers below are for 100 slides of 10,000 patches each"
        yield Finding("patches", text)
    yield from forecast(config, amount or _ASSUMED, macs_per_s)
    yield from check_store(str(config.store_path))


def read_study(path: Path) -> StudyConfig:
    """The settings of a study, as the verb ``study`` reads them."""
    parser = file_parser("study", None)
    parser.add_class_arguments(StudyConfig)
    values = parser.instantiate(parser.parse_args(["--config", str(path)])).as_dict()
    values.pop("config", None)
    return StudyConfig(**values)
