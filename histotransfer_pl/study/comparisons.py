"""Steps that compare encoders themselves: similarity of representations, knowledge gain."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.networks import requested_depths
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.runs.steps import Step
from histotransfer_pl.runs.variant import Variant
from histotransfer_pl.study.commands import (
    feature_facts,
    place_options,
    split_options,
    unusual_settings,
)
from histotransfer_pl.study.config import Pair, Probe, StudyConfig
from histotransfer_pl.study.options import options, refuse_owned, step_name

TUNED, RANDOM = "tuned", "random"
_OWNED_BY_SIMILARITY = ("model.first", "model.second", "data.store", "data.cohort", "output")
_OWNED_BY_GAIN = ("encoder", "output", "random", "random_seeds", "store")


def similarity_steps(config: StudyConfig, before: Sequence[Step]) -> Iterator[Step]:
    """CKA of each pair, on the patches of test slides.

    Raises:
        ConfigError: A pair that names an encoder the study does not have.
    """
    for pair in config.similarity:
        refuse_owned(pair.options, _OWNED_BY_SIMILARITY, "similarity.options")
        first = _encoder(config, pair.first, "similarity.first")
        yield _similarity(config, pair, first, before)


def gain_steps(config: StudyConfig) -> Iterator[Step]:
    """Knowledge gain of each encoder: on labelled tiles if given, else on the slides.

    On slides the pretrained features are those of the store. The random networks see the patches
    within the step itself, with BatchNorm statistics re-estimated on them, as on tiles: features
    that were extracted with their initial statistics would measure another gain.
    """
    if config.gain and config.task != "classification":
        raise ConfigError(
            f"gain probes classes, and the study's task is {config.task}: leave gain out"
        )
    for probe in config.gain:
        refuse_owned(probe.options, _OWNED_BY_GAIN, "gain.options")
        encoder = _encoder(config, probe.encoder, "gain.encoder")
        if "tiles" in probe.options:
            yield _gain(config, probe, encoder, {}, ())
            continue
        settings: dict[str, Any] = {"store": config.store_path, "cohort": config.cohort}
        settings["label"] = config.target
        settings |= {} if config.slides is None else {"images": config.slides}
        settings |= {"strict": False} if config.lost_slides == "leave_out" else {}
        own = step_name("extract", encoder.store_name)
        yield _gain(config, probe, encoder, settings, (own,))


def _similarity(
    config: StudyConfig, pair: Pair, first: EncoderConfig, before: Sequence[Step]
) -> Step:
    needs = [step_name("extract", first.store_name)]
    fold = config.folds.numbers[0]
    depths: Sequence[str] | None = None
    kind, _, method = pair.second.partition("+")
    if kind == TUNED:
        tune = _tuned(before, pair.first, method)
        fold = tune.factors["fold"]
        needs.append(tune.name)
        weights = str(tune.run_folder / "encoder.safetensors")
        second = replace(first, weights=weights, alias=f"{first.store_name}@{pair.second}-f{fold}")
        depths = _depths_up_to(first, tune.factors["depth"])
    elif pair.second == RANDOM:
        second = replace(first, weights="random", alias=None)
    else:
        second = _encoder(config, pair.second, "similarity.second")
        needs.append(step_name("extract", second.store_name))
    name = step_name(pair.first, pair.second)
    table = str(config.folder / "similarity" / f"{name}.csv")
    model = {"first": compared(first, depths), "second": compared(second, depths)}
    # On slides that neither trained nor chose anything.
    data = {"part": "test", **split_options(config, fold)}
    return Step(
        name=step_name("similarity", pair.first, pair.second),
        kind="similarity",
        argv=(
            "similarity",
            *options({"model": model}),
            *place_options(config),
            *options({"data": {} if config.slides is None else {"slides": config.slides}}),
            *options({"data": data}),
            *options(pair.options),
            *("--output", table),
        ),
        needs=tuple(dict.fromkeys(needs)),
        inputs=(str(config.cohort),),
        outputs=(table,),
        factors={"encoder": pair.first, "other": pair.second, "fold": fold},
        # The patches of the store: the encoders themselves are in the command.
        reads=feature_facts(config, first),
    )


def _gain(
    config: StudyConfig,
    probe: Probe,
    encoder: EncoderConfig,
    settings: Mapping[str, Any],
    needs: tuple[str, ...],
) -> Step:
    name = step_name(probe.name or probe.encoder)
    table = str(config.folder / "gain" / f"{name}.csv")
    depths = None if "tiles" in probe.options else requested_depths(encoder)
    return Step(
        name=f"gain-{name}",
        kind="gain",
        argv=(
            "gain",
            *options({"encoder": compared(encoder, depths)}),
            *options({**settings, "random_seeds": probe.random_seeds, **probe.options}),
            *("--output", table),
        ),
        needs=needs,
        inputs=(str(config.cohort),) if settings else (),
        outputs=(table,),
        factors={"encoder": probe.encoder},
        reads=feature_facts(config, encoder) if needs else "",
    )


def compared(encoder: EncoderConfig, depths: Sequence[str] | None) -> dict[str, Any]:
    """An encoder as settings of `similarity` and `gain`; all its depths when None."""
    keys = ["weights", "seed", "alias", "input_px", "pooling"]
    keys += ["allow_download", "model_args", "weights_key"]
    chosen = unusual_settings(encoder, keys)
    chosen |= {} if depths is None else {"depths": list(depths)}
    return {"name": encoder.name, **chosen}


def _encoder(config: StudyConfig, name: str, where: str) -> EncoderConfig:
    found = [item for item in config.encoders if item.store_name == name]
    if not found:
        raise ConfigError(
            f"{where} names {name!r}; this study has {', '.join(config.encoder_names)}"
        )
    return found[0]


def _tuned(before: Sequence[Step], name: str, method: str) -> Step:
    """The first run that tuned an encoder on its top-k patches, by a method if one is named."""
    for step in before:
        if step.kind == "finetune" and step.factors["encoder"] == name:
            variant = Variant.read(step.factors["variant"])
            if variant.rule == "topk" and method in ("", variant.method):
                return step
    raise ConfigError(
        f"similarity compares {name} with itself tuned, but this study does not tune it: add topk "
        "to variants and the encoder to tuning.encoders"
    )


def _depths_up_to(encoder: EncoderConfig, depth: str) -> list[str]:
    """All depths of the network up to one, where the tuned file ends."""
    every = requested_depths(replace(encoder, depths="all"))
    return every[: every.index(depth) + 1]
