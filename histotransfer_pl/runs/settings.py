"""What a plain run was trained with: its configuration without names, places and speed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.runs.record import read_config

_OF_THE_CELL = ("fold", "n_folds", "split_seed", "fold_column")
_PLACES = ("run_dir", "ckpt_path", "dirpath", "default_root_dir", "save_dir", "cache_dir", "slides")
_SPEED = ("num_workers", "threads", "cache", "cache_gb", "logger", "log_every_n_steps", "profiler")
_SHOWN = ("enable_progress_bar", "enable_model_summary", "verbose")
_LEFT_OUT = frozenset(("seed_everything", *_OF_THE_CELL, *_PLACES, *_SPEED, *_SHOWN))
# The name of a selection is part of the arm already, without the run that it was made with.
_LEFT_OUT_OF_DATA = frozenset(("data.selection",))
_STAGE1 = "model.stage1"


def training_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Every setting that makes a training another one, by its name on the command line.

    Fold and seed are left out, so are paths of the run and what changes its speed only. In place
    of the path of a stage-1 run, which differs from fold to fold, stand that run's own settings.
    """
    found = dict(_flat("", config))
    stage1 = found.pop(_STAGE1, None)
    if stage1 is None:
        return found
    own = training_settings(_config_of(Path(str(json.loads(stage1)))))
    return {**found, **{f"{_STAGE1}.{name}": value for name, value in own.items()}}


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        pairs = ((_joined(name, str(key)), item) for key, item in value.items())
        return [leaf for key, item in pairs if _counts(key) for leaf in _flat(key, item)]
    # An option that is not set is the same as one that an older release did not have.
    return [] if value is None else [(name, json.dumps(value, default=str, sort_keys=True))]


def _joined(name: str, key: str) -> str:
    return name if key == "init_args" else f"{name}.{key}" if name else key


def _counts(name: str) -> bool:
    return name.rsplit(".", 1)[-1] not in _LEFT_OUT and name not in _LEFT_OUT_OF_DATA


def _config_of(run: Path) -> Mapping[str, Any]:
    """The configuration of a run, given as its folder or as a checkpoint in it."""
    for folder in (run, *run.parents[:2]):
        try:
            return read_config(folder)
        except AnalysisError:
            # The report may be made where stage 1 is not: then its settings are not compared.
            continue
    return {}
