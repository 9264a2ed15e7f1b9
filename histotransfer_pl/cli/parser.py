"""A parser whose errors are one line and propose the nearest valid name."""

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import torch
from jsonargparse import ArgumentParser
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from histotransfer_pl.models.heads import MILHead

_UNKNOWN_OPTION = re.compile(r"Option '([^']+)' is not accepted")
_UNKNOWN_ARGUMENT = re.compile(r"[Uu]nrecognized arguments: (.+)")
_UNKNOWN_KEY = re.compile(r"(?:Key|key|Group|group) '([^']+)' (?:is not expected|does not accept.*)")
_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_NOT_A_SUBCLASS = re.compile(r"Import path (\S+) does not correspond to a subclass of (\S+)")
_REQUIRED = re.compile(r"the following arguments are required: (.+)")
_WRONG_VALUE = re.compile(r"Expected a (.+?)\. Got value: (.+)")
_INVALID_CHOICE = re.compile(r"invalid choice: '([^']+)' \(choose from (.+)\)")


class OneLineError:
    """Mixin of parsers: an error is one line on stderr and exit code 2."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.stderr.write(f"error: {explain(message, known_options(self))}\n")
        sys.exit(2)


class Parser(OneLineError, LightningArgumentParser):  # type: ignore[misc]
    """Parser of the verbs that drive a Trainer."""


class FileParser(OneLineError, ArgumentParser):  # type: ignore[misc]
    """Parser of the verbs that are functions."""


def explain(message: str, options: Iterable[str]) -> str:
    """One line for a message of the parser: what is wrong, and the nearest valid name."""
    key = re.search(r'Parser key "([^"]+)"', message)
    where = f" (in {key.group(1)})" if key else ""
    if found := _last(_UNKNOWN_OPTION, message) or _last(_UNKNOWN_KEY, message):
        return f"no setting {found[0]!r}{where}{_nearest(found[0], options)}"
    if found := _last(_UNKNOWN_ARGUMENT, message):
        names = [word for word in found[0].split() if word.startswith("-")] or [found[0]]
        name = names[0].split("=")[0]
        return f"no setting {name}{_nearest(name.lstrip('-'), options, prefix='--')}"
    if found := _last(_NOT_A_SUBCLASS, message):
        return f"{found[0]} is not a {found[1].rsplit('.', 1)[-1]}{where}"
    if found := _last(_UNKNOWN_CLASS, message):
        return f"no class {found[0]!r}{where}{_nearest(found[0], class_names())}"
    if found := _last(_REQUIRED, message):
        return f"{found[0]} must be given{where}"
    if found := _last(_WRONG_VALUE, message):
        return f"expected {_plain(found[0])}{where}, got {found[1].strip()}"
    if found := _last(_INVALID_CHOICE, message):
        choices = re.findall(r"'([^']+)'", found[1])
        return f"no choice {found[0]!r}{_nearest(found[0], choices)}; choose from {found[1]}"
    return " ".join(message.split())


def known_options(parser: Any) -> set[str]:
    """Dotted options of a parser, and the bare names of the settings of known classes."""
    dotted = {action.dest for action in getattr(parser, "_actions", [])}
    bare = {
        name
        for cls in (*_classes(), Trainer, ModelCheckpoint)
        for name in inspect.signature(cls).parameters
    }
    prefixed = {f"{group}.{name}" for group in ("model", "data") for name in bare}
    return dotted | bare | prefixed


def class_names() -> set[str]:
    """Classes that a configuration may name."""
    ours = {cls.__name__ for cls in _classes()}
    return ours | {name for name in vars(torch.optim) if name[0].isupper()}


def _classes() -> Iterator[type]:
    """Every class of ours that a configuration may name; they were imported by then."""
    for base in (LightningModule, LightningDataModule, MILHead):
        pending = [base]
        while pending:
            cls = pending.pop()
            pending += cls.__subclasses__()
            if cls.__module__.startswith("histotransfer_pl."):
                yield cls


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.35)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _last(pattern: re.Pattern[str], message: str) -> tuple[str, ...]:
    """Groups of the last, innermost match."""
    groups: tuple[str, ...] = ()
    for match in pattern.finditer(message):
        groups = match.groups()
    return groups


def _plain(kind: str) -> str:
    return re.sub(r"<class '([^']+)'>", r"\1", kind)
