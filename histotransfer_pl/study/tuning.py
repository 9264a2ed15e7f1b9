"""Steps of the variants in which the encoder is tuned on k patches of each slide."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from histotransfer_pl.encoders.config import EncoderConfig, Method
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.runs import variant as tuned
from histotransfer_pl.runs.steps import Step, joint_digest
from histotransfer_pl.study.commands import (
    Features,
    extract_step,
    finetune_step,
    fit_step,
    select_step,
    test_step,
    weight_factors,
)
from histotransfer_pl.study.config import StudyConfig, Variant

RULES: Mapping[Variant, str] = {"topk": "attention", "random": "random", "bottom": "bottom"}
"""How `select` calls the variants."""


@dataclass(frozen=True)
class Stage1:
    """What a run is fitted on and with: the frozen run from which tuning starts."""

    encoder: str
    depth: str
    head: str
    fold: int
    seed: int

    @classmethod
    def of(cls, factors: Mapping[str, Any]) -> "Stage1":
        """Of the factors of a step."""
        keys = ("encoder", "depth", "head", "fold", "seed")
        return cls(**{key: factors[key] for key in keys})

    def factors(self, weights: str, variant: str) -> dict[str, Any]:
        """The factors of a step of this run."""
        return {**asdict(self), **weight_factors(weights), "variant": variant}


def tuned_encoders(config: StudyConfig, depths: Mapping[str, Sequence[str]]) -> list[Stage1]:
    """The frozen runs to tune from; none when every variant is frozen."""
    if not config.tuned_variants:
        return []
    tuning = config.tuning
    pretrained = [item.store_name for item in config.encoders if item.weights != "random"]
    names = pretrained if tuning.encoders is None else tuning.encoders
    head = next(iter(config.heads)) if tuning.head is None else tuning.head
    folds = config.folds.numbers if tuning.folds is None else tuning.folds
    seeds = config.seeds[:1] if tuning.seeds is None else tuning.seeds
    _require("encoders", names, list(depths))
    _require("head", [head], list(config.heads))
    _require("folds", folds, config.folds.numbers)
    _require("seeds", seeds, config.seeds)
    chosen = {name: tuning.depth or depths[name][-1] for name in names}
    for name, depth in chosen.items():
        _require("depth", [depth], list(depths[name]))
        if depth not in config.store.kept([depth])[1]:
            raise ConfigError(
                f"tuning starts at the depth {depth} of {name}, of which the store keeps means "
                "alone: name it in store.full"
            )
    return [
        Stage1(name, depth, head, fold, seed)
        for seed in seeds
        for name, depth in chosen.items()
        for fold in folds
    ]


def tuning_steps(
    config: StudyConfig, tuned: Sequence[Stage1], attention: Mapping[Stage1, Step]
) -> Iterator[Step]:
    """Select, tune, test, extract with the tuned encoder, fit and test on its features.

    The tuned encoder has the fold in its name, and the only runs on its features are of that
    fold: its test patients were neither tuned on nor used to choose its epoch.
    """
    encoders = {item.store_name: item for item in config.encoders}
    for stage1 in tuned:
        before = attention[stage1]
        encoder = encoders[stage1.encoder]
        for variant in config.tuned_variants:
            chosen = select_step(config, before, variant, RULES[variant])
            yield chosen
            for method in config.tuning.methods:
                yield from _tuned_runs(config, stage1, encoder, (before, chosen), variant, method)


def _tuned_runs(
    config: StudyConfig,
    stage1: Stage1,
    encoder: EncoderConfig,
    before: tuple[Step, Step],
    variant: Variant,
    method: Method,
) -> Iterator[Step]:
    """Tune, test, extract again, fit and test: one way of tuning on one selection."""
    made = tuned.Variant(variant, method)
    name = str(made)
    joint = stage1.factors(encoder.weights, str(made._replace(own_head=True)))
    tune = finetune_step(config, before[1], encoder, joint, method)
    yield tune
    yield test_step(tune)
    weights = str(tune.run_folder / "encoder.safetensors")
    alias = f"{stage1.encoder}@{name}-f{stage1.fold}-s{stage1.seed}-"
    # Tuned otherwise it is another encoder, and the store keeps both apart.
    alias += joint_digest(*before, tune)
    again = replace(encoder, weights=weights, alias=alias, weights_key=None)
    extraction = extract_step(config, again, [stage1.depth], (tune.name,), kind="extract_tuned")
    yield extraction
    stored = Features(alias, stage1.depth, encoder.weights, (extraction.name,))
    fit = fit_step(config, stored, stage1.factors(encoder.weights, name))
    yield fit
    yield test_step(fit)


def _require(what: str, wanted: Sequence[Any], known: Sequence[Any]) -> None:
    missing = [item for item in wanted if item not in known]
    if missing:
        raise ConfigError(
            f"tuning.{what} names {missing[0]!r}; this study has {', '.join(map(str, known))}"
        )
