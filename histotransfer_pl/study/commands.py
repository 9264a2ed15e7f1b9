"""The command of each kind of step."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from histotransfer_pl.encoders.config import EncoderConfig, Method
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.runs.steps import Step, weights_kind
from histotransfer_pl.study.config import StudyConfig
from histotransfer_pl.study.options import format_override, options, step_name

_NO_FILE = ("default", "random")
SHOWN = frozenset({"test", "external", "predict", "cost", "similarity", "gain"})
"""Kinds of steps whose files the report reads."""


@dataclass(frozen=True)
class Features:
    """Features that runs are fitted on, and the step that makes them.

    Attributes:
        encoder: Name in the store.
        depth: Depth in the store.
        weights: Where the weights came from, as the user said it.
        made_by: Steps that must be done before.
        facts: What else determines them, from `feature_facts`.
        means: Whether the means of slides are stored.
        full: Whether every patch is.
    """

    encoder: str
    depth: str
    weights: str
    made_by: tuple[str, ...]
    facts: str = ""
    means: bool = False
    full: bool = True


def prepare_steps(config: StudyConfig) -> list[Step]:
    """What runs before everything else, each after the one before it."""
    steps: list[Step] = []
    for number, item in enumerate(config.prepare):
        argv = _split(item.command, f"prepare.command at place {number + 1}")
        if not argv:
            raise ConfigError(f"prepare holds an empty command at place {number + 1}")
        steps.append(
            Step(
                name=step_name("prepare", number, argv[0]),
                kind="prepare",
                argv=tuple(argv),
                needs=tuple(step.name for step in steps[-1:]),
                outputs=tuple(str(path) for path in item.outputs),
            )
        )
    return steps


def _split(command: str, where: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise ConfigError(
            f"{where} is no command line ({error}): close every quote of {command!r}"
        ) from error


def extract_step(
    config: StudyConfig,
    encoder: EncoderConfig,
    depths: Sequence[str],
    needs: tuple[str, ...],
    kind: str = "extract",
) -> Step:
    """All depths of an encoder in one pass over the slides."""
    name = encoder.store_name
    files = [] if kind != "extract" or encoder.weights in _NO_FILE else [encoder.weights]
    return Step(
        name=step_name("extract", name),
        kind=kind,
        argv=(
            "extract",
            *place_options(config),
            *options({"data": _slide_options(config)}),
            *options({"model": {**encoder_options(encoder, depths), **_kept(config, depths)}}),
            *options(config.extract),
        ),
        needs=needs,
        inputs=(str(config.cohort), *files),
        outputs=(str(config.store_path / "zarr.json"),),
        factors={"encoder": name, **weight_factors(encoder.weights)},
    )


def _kept(config: StudyConfig, depths: Sequence[str]) -> dict[str, list[str]]:
    """What is stored of these depths, where that is not every patch alone."""
    means, full = config.store.kept(depths)
    if not means and full == list(depths):
        return {}
    return {"means": means, "full": full}


def cost_step(config: StudyConfig, encoder: EncoderConfig) -> Step:
    """Parameters, speed and memory of an encoder at every depth."""
    table = config.folder / "costs" / f"{encoder.store_name}.csv"
    settings = {"benchmark": [encoder.name], "output": table}
    # What the extraction gives to the network: patches as they are, unless they are resized.
    settings["input_px"] = encoder.input_px or config.grid.patch_px
    return Step(
        name=step_name("cost", encoder.store_name),
        kind="cost",
        argv=("encoders", *options(settings)),
        outputs=(str(table),),
        factors={"encoder": encoder.store_name},
    )


def fit_step(
    config: StudyConfig, stored: Features, factors: Mapping[str, Any], *, means: bool = False
) -> Step:
    """Training of a head on stored features, or on the means of slides."""
    features: dict[str, Any] = {"encoder": stored.encoder, "depth": stored.depth}
    features |= {"means": True} if means else {}
    argv = [
        *place_options(config),
        *options({"data": {**features, **split_options(config, factors["fold"])}}),
    ]
    step = _training(config, "fit", factors, argv, config.fit)
    return replace(step, needs=stored.made_by, threads=config.fit_threads, reads=stored.facts)


def finetune_step(
    config: StudyConfig,
    chosen: Step,
    encoder: EncoderConfig,
    factors: Mapping[str, Any],
    method: Method = "full",
) -> Step:
    """Training of encoder and head on selected patches."""
    word = {flag: value for flag, value in pairwise(chosen.argv) if flag.startswith("--")}
    kept = {"encoder": encoder.name, **chosen_settings(encoder, _TUNABLE)}
    kept |= {} if method == "full" else {"tuning": method}
    argv = [
        *("--data", "TopKPatchDataModule"),
        *place_options(config),
        *options({"data": {"selection": word["--name"]}}),
        *options({"data": {} if config.slides is None else {"slides": config.slides}}),
        *options({"data": split_options(config, factors["fold"])}),
        *("--model", "TopKFineTuner"),
        *("--model.stage1", word["--run_dir"]),
        *options({"model": kept}),
    ]
    step = _training(config, "finetune", factors, argv, config.tuning.fit)
    outputs = (*step.outputs, str(step.run_folder / "encoder.safetensors"))
    return replace(step, needs=(chosen.name,), reads=chosen.reads, outputs=outputs)


def select_step(config: StudyConfig, attention: Step, variant: str, rule: str) -> Step:
    """The k patches of each slide to tune on."""
    run = attention.run_folder
    name = f"{run.name.removeprefix('fit-')}-{variant}-{config.tuning.k}"
    settings = {
        "run_dir": run,
        "name": name,
        "rule": rule,
        "top_k": config.tuning.k,
        "store": config.store_path,
        "seed": attention.factors["seed"],
        # A selection by an older fit of this run may be there.
        "overwrite": True,
    }
    return Step(
        name=step_name("select", name),
        kind="select",
        argv=("select", *options(settings)),
        needs=(attention.name,),
        factors={**attention.factors, "variant": variant},
        reads=attention.reads,
    )


def report_step(config: StudyConfig, steps: Sequence[Step]) -> Step:
    """The page about all of it."""
    shown = tuple(step.name for step in steps if step.kind in SHOWN)
    boards = ("--boards", *config.boards) if config.boards else ()
    return Step(
        name="report",
        kind="report",
        argv=("report", "--study_dir", str(config.folder), *boards),
        needs=shown,
        outputs=(str(config.folder / "report" / "index.html"),),
    )


def test_step(fit: Step) -> Step:
    """The test part of a fit's fold."""
    return _after_fit(fit, "test", ("test_predictions.csv", "test_metrics.json"))


def predict_step(fit: Step) -> Step:
    """Attention and predictions of every slide."""
    return _after_fit(fit, "predict", ("predictions.csv",))


def encoder_options(encoder: EncoderConfig, depths: Sequence[str]) -> dict[str, Any]:
    """An encoder as settings of `extract`; as a list where a single name cannot say it all."""
    if chosen_settings(encoder, ("pooling", "channels_last", "model_args", "weights_key")):
        return {"encoder": [asdict(replace(encoder, depths=list(depths)))]}
    keys = ("weights", "alias", "input_px", "allow_download", "seed")
    return {"encoder": encoder.name, "depths": list(depths), **chosen_settings(encoder, keys)}


_TUNABLE = ("weights", "input_px", "allow_download", "seed", "pooling", "model_args")


def chosen_settings(encoder: EncoderConfig, keys: Sequence[str]) -> dict[str, Any]:
    """Those of an encoder's settings that differ from the usual; a seed only of random weights."""
    chosen = unusual_settings(encoder, keys)
    if encoder.weights == "random" and "seed" in keys:
        chosen["seed"] = encoder.seed
    return chosen


def unusual_settings(encoder: EncoderConfig, keys: Sequence[str]) -> dict[str, Any]:
    """Those of some settings of an encoder that differ from the usual."""
    usual = EncoderConfig(encoder.name)
    return {
        key: getattr(encoder, key) for key in keys if getattr(encoder, key) != getattr(usual, key)
    }


def weight_factors(weights: str) -> dict[str, str]:
    """The weights of an encoder as factors of a step: their name, and of which kind they are."""
    return {"weights": Path(weights).name, "weights_kind": weights_kind(weights)}


def _training(
    config: StudyConfig,
    kind: str,
    factors: Mapping[str, Any],
    argv: Sequence[str],
    fit: Mapping[str, Any],
) -> Step:
    """A step of the verb `fit` with a head of the study, and the user's settings of such steps."""
    words = [factors[key] for key in ("encoder", "depth", "variant", "head")]
    name = step_name(kind, *words, f"f{factors['fold']}", f"s{factors['seed']}")
    run = config.folder / "runs" / name
    return Step(
        name=name,
        kind=kind,
        argv=(
            # A step is repeated when its command has changed, or when it was interrupted.
            *("fit", "--run_dir", str(run), "--overwrite", "true"),
            *("--seed_everything", str(factors["seed"])),
            *argv,
            *("--model.head", format_override(config.heads[factors["head"]], "heads")),
            *_quiet(fit),
            *options(fit),
        ),
        inputs=(str(config.cohort),),
        outputs=tuple(str(run / file) for file in ("checkpoints/best.ckpt", "config.yaml")),
        factors=factors,
    )


def _after_fit(fit: Step, verb: str, files: tuple[str, ...]) -> Step:
    return replace(
        fit,
        name=f"{verb}-{fit.name.removeprefix('fit-')}",
        kind=verb,
        argv=(verb, *fit.argv[1:]),
        needs=(fit.name,),
        outputs=tuple(str(fit.run_folder / file) for file in files),
    )


def place_options(config: StudyConfig) -> list[str]:
    """Where the store and the cohort are."""
    return ["--data.store", str(config.store_path), "--data.cohort", str(config.cohort)]


def feature_facts(config: StudyConfig, encoder: EncoderConfig) -> str:
    """What determines the features of an encoder beside its name and the slides.

    Steps that only read features do not say it in their commands. Only what differs from the
    usual is said, so that a new setting changes nothing for studies that leave it alone. The
    depths are not part of it: one more makes no other features of those that are there.
    """
    keys = ["weights", "input_px", "pooling", "model_args", "weights_key"]
    keys += ["seed"] if encoder.weights == "random" else []
    slides = _slide_options(config)
    slides.pop("slides", None)
    facts = unusual_settings(encoder, keys) | slides
    return json.dumps(facts, sort_keys=True) if facts else ""


def _slide_options(config: StudyConfig) -> dict[str, Any]:
    """Where the slides are, and how the grid differs from the usual one."""
    places = {"slides": config.slides, "slide_mpp": config.slide_mpp}
    chosen: dict[str, Any] = {key: value for key, value in places.items() if value is not None}
    grid = _differing(config.grid.to_json(), GridSettings().to_json())
    return {**chosen, "grid": grid} if grid else chosen


def _differing(settings: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            inner = _differing(value, usual[key])
            found |= {key: inner} if inner else {}
        elif value != usual[key]:
            found[key] = value
    return found


def split_options(config: StudyConfig, fold: int) -> dict[str, Any]:
    """What a run is trained, validated and tested on."""
    split: dict[str, Any] = {"target": config.target, "fold": fold}
    if config.task != "classification":  # what is usual is not said, so that old plans stay
        split["task"] = config.task
    if config.lost_slides == "leave_out":
        split["strict"] = False
    if config.folds.column is not None:
        return split | {"fold_column": config.folds.column}
    return split | {"n_folds": config.folds.n_folds, "split_seed": config.folds.split_seed}


def _quiet(settings: Mapping[str, Any]) -> list[str]:
    """No progress bar in the logs, unless it is asked for."""
    asked = "enable_progress_bar" in settings.get("trainer", {})
    return [] if asked else ["--trainer.enable_progress_bar", "false"]
