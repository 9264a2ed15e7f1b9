"""A run folder as a setting: its own configuration, and the refusal to train over it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.yaml_files import YamlError, read_yaml
from histotransfer_pl.runs.record import RUN_FILE
from histotransfer_pl.runs.steps import option_value

_READERS = ("validate", "test", "predict")
_NOT_PASSED_ON = ("ckpt_path", "run_dir", "output_dir", "overwrite", "weights_only")
_PATHS = ("store", "cohort", "slides", "stage1", "weights", "cache_dir")
_FINISHED = ("config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt")


def with_own_config(arguments: Sequence[str]) -> list[str]:
    """Put the run's own configuration before what the command line says.

    ``test --run_dir runs/a`` is all that needs to be typed; settings behind it override.
    """
    words = list(arguments)
    folder = option_value(words, "run_dir")
    given = any(word.split("=")[0] == "--config" for word in words)
    if words[0] not in _READERS or folder is None or given:
        return words
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        return words  # the parser says what is missing
    config = read_run_config(Path(folder))
    own = {key: value for key, value in config.items() if key not in _NOT_PASSED_ON}
    return [words[0], "--config", json.dumps(own), *words[1:]]


def read_run_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run, whose relative paths are found from any working folder."""
    path = folder / "config.yaml"
    try:
        config = read_yaml(path)
    except FileNotFoundError as error:
        raise ConfigError(f"no {path}: give the run folder of a finished fit") from error
    except (OSError, YamlError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): run fit again") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path} holds no settings: run fit again")
    start = _working_folder(folder)
    for section in ("data", "model"):
        settings = (config.get(section) or {}).get("init_args") or {}
        for key in _PATHS:
            if key in settings:
                settings[key] = _resolve_from(start, settings[key])
    return config


def refuse_finished(run_dir: Path, *, allowed: bool) -> None:
    """Refuse to train over a run."""
    held = [name for name in _FINISHED if (run_dir / name).exists()]
    if held and not allowed:
        raise ConfigError(
            f"{run_dir} holds a run ({', '.join(held)}): give another --run_dir, --ckpt_path last "
            "to go on with it, or --overwrite true to replace it"
        )


def _working_folder(folder: Path) -> Path | None:
    try:
        return Path(json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["working_folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a run of an earlier release, or one that has not ended


def _resolve_from(start: Path | None, value: Any) -> Any:
    """A path as it is if something is there, else from where the run was started."""
    if isinstance(value, list):
        return [_resolve_from(start, item) for item in value]
    if not isinstance(value, str) or start is None or "://" in value or os.path.isabs(value):  # noqa: PTH117
        return value
    return value if Path(value).exists() or not (start / value).exists() else str(start / value)
