"""Settings of a study from files and the command line; those of other verbs key by key."""

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.study.heads import check_heads
from histotransfer_pl.study.options import merge, override

_PASSED_ON = ("fit", "extract", "tuning.fit", "heads", "resources")
"""Sections whose settings belong to other verbs."""


def parse_settings(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """What a parser makes of arguments; settings of other verbs are merged key by key.

    Raises:
        ConfigError: A setting without a value, or a head without a class.
    """
    arguments, changes = _split_overrides(arguments)
    parsed = parser.parse_args(arguments)
    _merge_files(arguments, parsed)
    for section, name, value in changes:
        override(parsed[section], name, value)
    # What was overridden the parser has not seen: its own checks would end in a traceback.
    check_heads(parsed["heads"])
    return parsed


def _split_overrides(arguments: list[str]) -> tuple[list[str], list[tuple[str, str, Any]]]:
    """Take ``--fit.trainer.max_epochs 3`` and the like out of the arguments.

    The parser would put them in the place of the whole section.
    """
    kept: list[str] = []
    changes: list[tuple[str, str, Any]] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        section = next((s for s in _PASSED_ON if option.startswith(f"--{s}.")), None)
        if section is None:
            kept.append(word)
            continue
        text = value if equals else next(words, None)
        if text is None or text.startswith("--"):
            raise ConfigError(f"{option} has no value")
        changes.append((section, option.removeprefix(f"--{section}."), _read_value(text, option)))
    return kept, changes


def _read_value(text: str, where: str) -> Any:
    """What a text means to the parser, to which 1e-4 is a number and a date is a word."""
    try:
        return get_loader("yaml")(text)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{where} has {text!r}, expected YAML ({reason}): correct it, or put it in quotes"
        ) from error


def _merge_files(arguments: Sequence[str], parsed: Any) -> None:
    """Settings of other verbs, key by key over several files.

    The parser does so with all others; of these it keeps what the last file says.
    """
    files = [_read_file(word) for word in _values_of("--config", arguments)]
    if len(files) < 2:
        return
    for section in _PASSED_ON:
        *outer, _ = section.split(".")
        if any(_values_of(f"--{name}", arguments) for name in (section, *outer)):
            # A whole section on the command line is what it says.
            continue
        found = [reduce(_inside, section.split("."), content) for content in files]
        if merged := reduce(merge, found):
            parsed[section] = merged


def _inside(settings: dict[str, Any], key: str) -> dict[str, Any]:
    inner = settings.get(key)
    return inner if isinstance(inner, dict) else {}


def _values_of(option: str, arguments: Sequence[str]) -> list[str]:
    """The values of an option that may be given several times."""
    found: list[str] = []
    for word, following in pairwise([*arguments, ""]):
        name, equals, value = word.partition("=")
        if name == option:
            found.append(value if equals else following)
    return found


def _read_file(path: str) -> dict[str, Any]:
    """The settings of a file that the parser has accepted; `tuning.fit: ...` as nested ones."""
    text = Path(path).read_text(encoding="utf-8") if Path(path).is_file() else path
    settings: dict[str, Any] = {}
    for name, value in _read_value(text, path).items():
        nested = reduce(lambda inner, key: {key: inner}, reversed(str(name).split(".")), value)
        settings = merge(settings, nested)
    return settings
