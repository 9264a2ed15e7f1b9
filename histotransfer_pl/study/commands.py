"""The command of each kind of step."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.slides.grid import GridSettings
from histotransfer_pl.study.config import StudyConfig
from histotransfer_pl.study.options import options, spell
from histotransfer_pl.study.steps import Step, step_name

_NO_FILE = ("default", "random")


def prepare_steps(config: StudyConfig) -> list[Step]:
    """What runs before everything else, each after the one before it."""
    steps: list[Step] = []
    for number, item in enumerate(config.prepare):
        argv = shlex.split(item.command)
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


def extract_step(
    config: StudyConfig, encoder: EncoderConfig, depths: Sequence[str], needs: tuple[str, ...]
) -> Step:
    """All depths of an encoder in one pass over the slides."""
    name = encoder.store_name
    return Step(
        name=step_name("extract", name),
        kind="extract",
        argv=(
            "extract",
            *_data_options(config),
            *options({"data": _slide_options(config)}),
            *options({"model": encoder_options(encoder, depths)}),
            *options(config.extract),
        ),
        needs=needs,
        inputs=_inputs(config, encoder),
        outputs=(str(config.store / "zarr.json"),),
        factors={"encoder": name, "weights": Path(encoder.weights).name},
    )


def cost_step(config: StudyConfig, encoder: EncoderConfig, depths: Sequence[str]) -> Step:
    """Speed and memory of an encoder at each depth."""
    name = encoder.store_name
    table = str(config.folder / "costs" / f"{step_name(name)}.csv")
    argv = ("cost", *options(encoder_options(encoder, depths)), "--table", table)
    return Step(step_name("cost", name), "cost", argv, outputs=(table,), factors={"encoder": name})


def fit_step(config: StudyConfig, factors: Mapping[str, Any], needs: tuple[str, ...]) -> Step:
    """Training of a head on stored features."""
    words = [factors[key] for key in ("encoder", "depth", "variant", "head")]
    name = step_name("fit", *words, f"f{factors['fold']}", f"s{factors['seed']}")
    run = config.folder / "runs" / name
    argv = [
        "fit",
        *("--run_dir", str(run)),
        *("--seed_everything", str(factors["seed"])),
        *_data_options(config),
        *options({"data": _split_options(config, factors)}),
        *("--model.head", spell(config.heads[factors["head"]])),
        *_quiet(config.fit),
        *options(config.fit),
    ]
    return Step(
        name=name,
        kind="fit",
        argv=tuple(argv),
        needs=needs,
        inputs=(str(config.cohort),),
        outputs=(str(run / "checkpoints" / "best.ckpt"), str(run / "config.yaml")),
        factors=factors,
        threads=config.fit_threads,
    )


def test_step(fit: Step) -> Step:
    """The test part of a fit's fold."""
    return _after_fit(fit, "test", ("test_predictions.csv", "test_metrics.json"))


def predict_step(fit: Step) -> Step:
    """Attention and predictions of every slide."""
    return _after_fit(fit, "predict", ("predictions.csv",))


def encoder_options(encoder: EncoderConfig, depths: Sequence[str]) -> dict[str, Any]:
    """An encoder as settings of `extract`; as a list where a single name cannot say it all."""
    if encoder.pooling != "default" or not encoder.channels_last:
        return {"encoder": [asdict(replace(encoder, depths=list(depths)))]}
    chosen: dict[str, Any] = {"encoder": encoder.name, "depths": list(depths)}
    for key, default in (
        ("weights", "default"),
        ("alias", None),
        ("input_px", None),
        ("allow_download", False),
    ):
        value = getattr(encoder, key)
        if value != default:
            chosen[key] = value
    if encoder.weights == "random":
        chosen["seed"] = encoder.seed
    return chosen


def _after_fit(fit: Step, verb: str, files: tuple[str, ...]) -> Step:
    run = Path(fit.argv[fit.argv.index("--run_dir") + 1])
    return Step(
        name=f"{verb}-{fit.name.removeprefix('fit-')}",
        kind=verb,
        argv=(verb, *fit.argv[1:]),
        needs=(fit.name,),
        inputs=fit.inputs,
        outputs=tuple(str(run / file) for file in files),
        factors=fit.factors,
        threads=fit.threads,
    )


def _data_options(config: StudyConfig) -> list[str]:
    return ["--data.store", str(config.store), "--data.cohort", str(config.cohort)]


def _slide_options(config: StudyConfig) -> dict[str, Any]:
    """Where the slides are, and how the grid differs from the usual one."""
    places = {"slides": config.slides, "slide_mpp": config.slide_mpp}
    chosen: dict[str, Any] = {key: value for key, value in places.items() if value is not None}
    grid = _differing(config.grid.to_dict(), GridSettings().to_dict())
    return {**chosen, "grid": grid} if grid else chosen


def _differing(settings: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            value = _differing(value, usual[key])
            if value:
                found[key] = value
        elif value != usual[key]:
            found[key] = value
    return found


def _split_options(config: StudyConfig, factors: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is trained, validated and tested on."""
    split: dict[str, Any] = {"encoder": factors["encoder"], "depth": factors["depth"]}
    split |= {"target": config.target, "fold": factors["fold"]}
    if config.lost_slides == "leave_out":
        split["strict"] = False
    if config.folds.column is not None:
        return split | {"fold_column": config.folds.column}
    return split | {"n_folds": config.folds.n_folds, "split_seed": config.folds.split_seed}


def _quiet(settings: Mapping[str, Any]) -> list[str]:
    """No progress bar in the logs, unless it is asked for."""
    asked = "enable_progress_bar" in settings.get("trainer", {})
    return [] if asked else ["--trainer.enable_progress_bar", "false"]


def _inputs(config: StudyConfig, encoder: EncoderConfig) -> tuple[str, ...]:
    files = [str(config.cohort)]
    if encoder.weights not in _NO_FILE:
        files.append(encoder.weights)
    return tuple(files)
