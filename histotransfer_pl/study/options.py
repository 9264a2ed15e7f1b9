"""Settings as words of a command line."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from histotransfer_pl.errors import ConfigError

_SECTIONS = ("data", "model", "trainer", "checkpoint")
_OF_A_CLASS = ("class_path", "init_args", "dict_kwargs")
"""Keys that say which class, beside which its settings must not stand."""


def step_name(*words: str | int) -> str:
    """A name for a step that is a safe file name, from words such as encoder and depth."""
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", str(word)) for word in words)


def options(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`{"data": {"batch_size": 8}}` -> `--data.batch_size 8`.

    Values are written as JSON, which the parser of the command line reads back; a class with its
    arguments stays one value, except those of `data` and `model`: as one value they would take the
    place of what else the command says of this section.

    Raises:
        ConfigError: A value that is no JSON.
    """
    words: list[str] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if not isinstance(value, Mapping) or not value:
            words += [f"--{name}", format_override(value, name)]
        elif "class_path" not in value:
            words += options(value, f"{name}.")
        elif name in ("data", "model"):
            words += [f"--{name}", format_override(value["class_path"], name)]
            words += options(_without_class(value), f"{name}.")
        else:
            words += [f"--{name}", format_override(value, name)]
    return words


def format_override(value: Any, name: str) -> str:
    """A value as one word."""
    if isinstance(value, str | Path):
        return str(value)
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} holds {value!r}, expected words, numbers, lists and mappings of them "
            f"({error}): put it in quotes"
        ) from error


def _without_class(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a class; what stands beside them is one, too."""
    beside = {key: value for key, value in settings.items() if key not in _OF_A_CLASS[:2]}
    return {**(settings.get("init_args") or {}), **beside}


def override(settings: dict[str, Any], name: str, value: Any) -> None:
    """Change one setting of nested settings in place; ``trainer.max_epochs`` leaves the others.

    Where a class is named, its arguments are meant; ``trainer.callbacks+`` adds to a list.

    Raises:
        ConfigError: A section that holds no settings, or a list to add to that is none.
    """
    *sections, last = name.split(".")
    for section in sections:
        settings = _section(_arguments(settings, section, name), section, name)
    settings = _arguments(settings, last, name)
    if last.endswith("+"):
        _append(settings, last, value, name)
    else:
        settings[last] = value


def _section(settings: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    inner = settings.setdefault(section, {})
    if not isinstance(inner, dict):
        raise ConfigError(f"{name}: {section} holds {inner!r}, no settings of its own")
    return inner


def _arguments(settings: dict[str, Any], key: str, name: str) -> dict[str, Any]:
    """The settings that a key belongs to: those of the class, where one is named."""
    if "class_path" not in settings or key in _OF_A_CLASS:
        return settings
    return _section(settings, "init_args", name)


def _append(settings: dict[str, Any], key: str, value: Any, name: str) -> None:
    # Without a list to add to, the run itself adds to what it has.
    plain = key.rstrip("+")
    place = plain if settings.get(plain) is not None else key
    held = settings.get(place, [])
    if not isinstance(held, list):
        raise ConfigError(f"{name}: {plain} holds {held!r}, no list to add to: leave out the +")
    settings[place] = [*held, *(value if isinstance(value, list) else [value])]


def merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with those of ``second`` over them, key by key."""
    merged = dict(first)
    for key, value in second.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = dict(value) if _another_class(before, value) else merge(before, value)
        else:
            merged[key] = value
    return merged


def _another_class(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether the arguments of the first mean nothing to the second."""
    return "class_path" in second and first.get("class_path") != second["class_path"]


def require_sections(settings: Mapping[str, Any], where: str) -> None:
    """Refuse sections of a verb that hold no settings, which would replace those of the plan."""
    for key, section in settings.items():
        if str(key).rstrip("+") not in _SECTIONS:
            continue
        if not isinstance(section, Mapping):
            raise ConfigError(
                f"{where}.{key} holds {section!r}, expected a mapping of settings: give its "
                "settings, or leave it out"
            )
        arguments = section.get("init_args") or {}
        if not isinstance(arguments, Mapping):
            raise ConfigError(
                f"{where}.{key}.init_args holds {arguments!r}, expected a mapping of settings"
            )


def refuse_owned(settings: Mapping[str, Any], owned: Collection[str], where: str) -> None:
    """Refuse settings that the plan sets itself, such as the fold a run is tested on."""
    for name in _dotted(settings):
        for mine in owned:
            if name == mine or name.startswith(f"{mine}."):
                raise ConfigError(
                    f"{where} sets {name}, which the study sets for each run itself: leave it out"
                )


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of all settings as the plan spells them, however the user does."""
    names: list[str] = []
    for key, value in settings.items():
        # data.init_args.fold and data.fold+ are data.fold to the parser of a run.
        words = (word.rstrip("+") for word in str(key).split("."))
        name = ".".join([prefix, *words] if prefix else words)
        name = ".".join(word for word in name.split(".") if word != "init_args")
        names.append(name)
        if isinstance(value, Mapping):
            names += _dotted(value, name)
    return names
