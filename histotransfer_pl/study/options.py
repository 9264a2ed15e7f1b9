"""Settings as words of a command line."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from histotransfer_pl.errors import ConfigError


def options(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`{"data": {"batch_size": 8}}` -> `--data.batch_size 8`.

    Values are written as JSON, which the parser of the command line reads back; a class with its
    arguments stays one value.
    """
    words: list[str] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and "class_path" not in value:
            words += options(value, f"{name}.")
        else:
            words += [f"--{name}", spell(value)]
    return words


def spell(value: Any) -> str:
    """A value as one word."""
    if isinstance(value, str | Path):
        return str(value)
    return json.dumps(value)


def override(settings: dict[str, Any], name: str, value: Any) -> None:
    """Change one setting of nested settings in place; ``trainer.max_epochs`` leaves the others."""
    *sections, last = name.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise ConfigError(f"{name}: {section} holds {settings!r}, no settings of its own")
    settings[last] = value


def refuse_owned(settings: Mapping[str, Any], owned: Collection[str], where: str) -> None:
    """Refuse settings that the plan sets itself, such as the fold a run is tested on.

    Args:
        settings: Nested settings of a verb.
        owned: Dotted names of those that the plan sets.
        where: How the user calls these settings.

    Raises:
        ConfigError: It names the setting.
    """
    for name in _dotted(settings):
        for mine in owned:
            if name == mine or name.startswith(f"{mine}."):
                raise ConfigError(
                    f"{where} sets {name}, which the study sets for each run itself: leave it out"
                )


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    names: list[str] = []
    for key, value in settings.items():
        names.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            names += _dotted(value, f"{prefix}{key}.")
    return names
