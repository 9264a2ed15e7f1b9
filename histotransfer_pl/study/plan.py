"""From a configuration to the steps of a study.

A pure function of the configuration and the catalogue: nothing is read from the cohort, the store
or earlier runs, so that the plan can be shown, compared and handed to another scheduler.

Fold hygiene is a property of the plan: the fold of a run is set here and cannot be set by the
user, and the features of a tuned encoder meet only runs of the fold that it was tuned on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.study.commands import (
    cost_step,
    extract_step,
    fit_step,
    predict_step,
    prepare_steps,
    test_step,
)
from histotransfer_pl.study.config import StudyConfig
from histotransfer_pl.study.depths import requested_depths
from histotransfer_pl.study.heads import check_heads
from histotransfer_pl.study.options import refuse_owned
from histotransfer_pl.study.steps import Plan, Step

_OWNED_BY_FITS = (
    "run_dir", "seed_everything", "ckpt_path", "model.head", "model.stage1", "data.store",
    "data.cohort", "data.encoder", "data.depth", "data.target", "data.fold", "data.n_folds",
    "data.split_seed", "data.fold_column", "data.selection", "trainer.default_root_dir",
    "checkpoint.dirpath",
)  # fmt: skip
_OWNED_BY_EXTRACTION = (
    "data.store", "data.cohort", "data.slides", "data.slide_mpp", "data.grid", "model.encoder",
    "model.weights", "model.seed", "model.depths", "model.alias", "model.input_px",
    "model.allow_download",
)  # fmt: skip


@dataclass(frozen=True)
class Features:
    """Features that runs are fitted on, and the step that makes them.

    Attributes:
        encoder: Name in the store.
        depth: Depth in the store.
        weights: Where the weights came from, as the user said it.
        made_by: Steps that must be done before.
    """

    encoder: str
    depth: str
    weights: str
    made_by: tuple[str, ...]


def make_plan(config: StudyConfig) -> Plan:
    """The steps of a study, in the order in which they run on one machine.

    Raises:
        ConfigError: Settings that the study owns, an unknown head, or names that collide.
        EncoderError: An unknown encoder or depth.
    """
    refuse_owned(config.fit, _OWNED_BY_FITS, "fit")
    refuse_owned(config.tuning.fit, _OWNED_BY_FITS, "tuning.fit")
    refuse_owned(config.extract, _OWNED_BY_EXTRACTION, "extract")
    check_heads(config.heads)
    return Plan(config.name, tuple(_steps(config)))


def _steps(config: StudyConfig) -> Iterator[Step]:
    before = prepare_steps(config)
    yield from before
    ready = tuple(step.name for step in before)
    features = [
        Features(stored.encoder, stored.depth, "imported", ready) for stored in config.features
    ]
    for encoder in config.encoders:
        depths = requested_depths(encoder)
        extraction = extract_step(config, encoder, depths, ready)
        yield extraction
        if config.costs:
            yield cost_step(config, encoder, depths)
        features += [
            Features(encoder.store_name, depth, encoder.weights, (extraction.name,))
            for depth in depths
        ]
    # Seed by seed, so that an interrupted study has whole comparisons of fewer seeds.
    for seed in config.seeds:
        for stored in features:
            for head in config.heads:
                for fold in config.folds.numbers:
                    yield from _runs(config, stored, head, fold, seed)


def _runs(
    config: StudyConfig, stored: Features, head: str, fold: int, seed: int
) -> Iterator[Step]:
    """Fit and test; with the first seed also the attention of every patch."""
    factors: dict[str, Any] = {
        "encoder": stored.encoder,
        "weights": Path(stored.weights).name,
        "depth": stored.depth,
        "head": head,
        "variant": "frozen",
        "fold": fold,
        "seed": seed,
    }
    fit = fit_step(config, factors, stored.made_by)
    yield fit
    yield test_step(fit)
    if config.attention and seed == config.seeds[0]:
        yield predict_step(fit)


def run_folder(plan: Plan, name: str) -> Path:
    """The run folder of a `fit`, `test` or `predict` step.

    Raises:
        ConfigError: The step has none.
    """
    argv = plan[name].argv
    if "--run_dir" not in argv:
        raise ConfigError(f"step {name} has no run folder")
    return Path(argv[argv.index("--run_dir") + 1])
