"""From a configuration to the steps of a study.

A pure function of the configuration and the catalogue: nothing is read from the cohort, the store
or earlier runs, so that the plan can be shown, compared and handed to another scheduler.

Fold hygiene is a property of the plan: the fold of a run is set here and cannot be set by the
user, and the features of a tuned encoder meet only runs of the fold that it was tuned on.
"""

from collections.abc import Iterator, Sequence

from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.networks import requested_depths
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.runs.steps import Plan, Step
from histotransfer_pl.study.commands import (
    Features,
    cost_step,
    extract_step,
    feature_facts,
    fit_step,
    predict_step,
    prepare_steps,
    report_step,
    test_step,
)
from histotransfer_pl.study.comparisons import gain_steps, similarity_steps
from histotransfer_pl.study.config import StudyConfig
from histotransfer_pl.study.external import external_extractions, external_steps
from histotransfer_pl.study.heads import averages_first, check_heads
from histotransfer_pl.study.options import refuse_owned, require_sections
from histotransfer_pl.study.tuning import Stage1, tuned_encoders, tuning_steps

_OWNED_BY_FITS = (
    "config", "run_dir", "seed_everything", "ckpt_path",
    "model.head", "model.stage1", "model.encoder", "model.weights", "model.seed",
    "model.input_px", "data.store", "data.cohort", "data.slides",
    "data.encoder", "data.depth", "data.target", "data.fold", "data.n_folds", "data.split_seed",
    "data.fold_column", "data.means", "data.selection", "trainer.default_root_dir",
    "checkpoint.dirpath",
)  # fmt: skip
_OWNED_BY_EXTRACTION = (
    "data.class_path", "data.store", "data.cohort", "data.slides", "data.slide_mpp", "data.grid",
    "model.class_path", "model.encoder", "model.weights", "model.seed", "model.depths",
    "model.alias", "model.input_px", "model.allow_download", "model.means", "model.full",
)  # fmt: skip


def make_plan(config: StudyConfig) -> Plan:
    """The steps of a study, in the order in which they run on one machine.

    Raises:
        ConfigError: Settings that the study owns, an unknown head, or names that collide.
        EncoderError: An unknown encoder or depth.
    """
    for where, settings, owned in (
        ("fit", config.fit, _OWNED_BY_FITS),
        ("tuning.fit", config.tuning.fit, _OWNED_BY_FITS),
        ("extract", config.extract, _OWNED_BY_EXTRACTION),
    ):
        require_sections(settings, where)
        refuse_owned(settings, owned, where)
    check_heads(config.heads)
    depths = {encoder.store_name: requested_depths(encoder) for encoder in config.encoders}
    tuned = tuned_encoders(config, depths)
    steps = prepare_steps(config)
    features = _stored(config, steps)
    for encoder in config.encoders:
        steps += _extraction(config, encoder, depths, features)
    steps += external_extractions(config, depths)
    steps += _costs(config, depths)
    stage1: dict[Stage1, Step] = {}
    for step in _runs(config, features, tuned):
        steps.append(step)
        if step.kind == "predict":
            stage1[Stage1.of(step.factors)] = step
    steps += tuning_steps(config, tuned, stage1)
    steps += similarity_steps(config, steps)
    steps += gain_steps(config)
    if config.report:
        steps.append(report_step(config, steps))
    plan = Plan(config.name, tuple(steps))
    check_hygiene(plan)
    return plan


def _stored(config: StudyConfig, before: Sequence[Step]) -> list[Features]:
    """Features that the store has once the preparations are done."""
    ready = tuple(step.name for step in before[-1:])
    return [Features(item.encoder, item.depth, "imported", ready) for item in config.features]


def _extraction(
    config: StudyConfig,
    encoder: EncoderConfig,
    depths: dict[str, list[str]],
    features: list[Features],
) -> Iterator[Step]:
    """The extraction with an encoder; what it makes is added to the features."""
    name = encoder.store_name
    ready = tuple(step.name for step in prepare_steps(config)[-1:])
    step = extract_step(config, encoder, depths[name], ready)
    yield step
    facts = feature_facts(config, encoder)
    means, full = config.store.kept(depths[name])
    features += [
        Features(name, depth, encoder.weights, (step.name,), facts, depth in means, depth in full)
        for depth in depths[name]
    ]


def _costs(config: StudyConfig, depths: dict[str, list[str]]) -> Iterator[Step]:
    """One measurement of each network: weights change nothing about it."""
    if not config.costs:
        return
    measured: set[tuple[str, int | None]] = set()
    for encoder in config.encoders:
        network = (encoder.name, encoder.input_px)
        if network not in measured:
            measured.add(network)
            yield cost_step(config, encoder)


def _runs(
    config: StudyConfig, features: Sequence[Features], tuned: Sequence[Stage1]
) -> Iterator[Step]:
    """Fit and test of every combination; the attention where it is asked for or tuned on.

    Seed by seed, so that an interrupted study has whole comparisons of fewer seeds.
    """
    for seed in config.seeds:
        for stored in features:
            for head in config.heads:
                for fold in config.folds.numbers:
                    own = Stage1(stored.encoder, stored.depth, head, fold, seed)
                    means = stored.means and averages_first(config.heads[head]) and own not in tuned
                    if not means and not stored.full:
                        continue
                    factors = own.factors(stored.weights, "frozen")
                    fit = fit_step(config, stored, factors, means=means)
                    yield fit
                    yield test_step(fit)
                    yield from external_steps(config, fit, stored.encoder)
                    if (config.attention and not means) or own in tuned:
                        yield predict_step(fit)


def check_hygiene(plan: Plan) -> None:
    """Refuse a plan in which tuned features are evaluated on a fold they were not tuned on.

    The plan is made so that this cannot happen; this reads the finished plan and says so.
    """
    for step in plan.of_kind("fit", "test", "predict"):
        for need in step.needs:
            other = plan[need].factors.get("fold", step.factors["fold"])
            if other != step.factors["fold"]:
                raise ConfigError(f"{step.name} needs {need}, which belongs to fold {other}")
