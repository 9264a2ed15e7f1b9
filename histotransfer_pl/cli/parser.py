"""A parser whose errors are one line and propose the nearest valid name."""

import difflib
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings
from jsonargparse._actions import _ActionConfigLoad
from typing_extensions import override

from histotransfer_pl.records.yaml_files import check_yaml

# Where any value is accepted, no class of a file's choice is made.
set_parsing_settings(instantiate_subclass_spec_in_any=False)

_load_value = get_loader("yaml")


def load_value(text: str) -> Any:
    """A value of the command line or a file, as the parser reads it: 1e-4 is a number.

    Raises:
        YamlError: It has a key twice, or grows without bounds.
    """
    check_yaml(text)
    return _load_value(text)


set_loader("yaml", load_value, (yaml.YAMLError,))

_OPTION = re.compile(r"Option '([^']+)' is not accepted")
_KEY = re.compile(r"(?:[Kk]ey|[Gg]roup) '([^']+)' (?:is not expected|does not accept.*)")
_ARGUMENT = re.compile(r"[Uu]nrecognized arguments: (.+)")
_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_SUBCLASS = re.compile(r"Import path (\S+) does not correspond to a subclass of (\S+)")
_REQUIRED = re.compile(r"the following arguments are required: (.+)")
_VALUE = re.compile(r"Expected a (.+?)\. Got value: (.+)")
_CHOICE = re.compile(r"invalid choice: '([^']+)' \(choose from (.+)\)")


class OneLineError(ArgumentParser):
    """A parser that says what is wrong in one line on stderr, and exits with 2."""

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        sys.stderr.write(f"error: {explain(message, self.known_options(), self.class_names())}\n")
        sys.exit(2)

    @override
    def parse_path(self, *args: Any, **kwargs: Any) -> Namespace:
        """Settings of a file; ``trainer: 1`` would else give way to any ``--trainer.x`` unsaid."""
        settings: Namespace = super().parse_path(*args, **kwargs)
        for section in self._sections():
            found = settings.get(section, {})
            if not isinstance(found, (Namespace, dict)):
                self.error(f"expected settings, one per line (in {section}), got {found!r}")
        return settings

    def _sections(self) -> list[str]:
        """Names of settings that only hold further ones: no value and no class of their own."""
        actions = getattr(self, "_actions", [])
        own = {a.dest for a in actions if not isinstance(a, _ActionConfigLoad)}
        parts = [option.split(".") for option in self.known_options()]
        return sorted({".".join(p[:n]) for p in parts for n in range(1, len(p))} - own)

    def known_options(self) -> set[str]:
        """Dotted names of the options."""
        return {action.dest for action in getattr(self, "_actions", [])}

    def class_names(self) -> set[str]:
        """Classes that a configuration may name."""
        return set()


def file_parser(verb: str, description: str | None) -> OneLineError:
    """The parser of a verb that is a function, which also reads its settings from YAML files."""
    parser = OneLineError(
        prog=f"python -m histotransfer_pl {verb}",
        description=(description or "").split("\n\n", 1)[0],
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with the settings below.")
    return parser


def explain(message: str, options: Iterable[str], classes: Iterable[str] = ()) -> str:
    """One line for a message of the parser: what is wrong, and the nearest valid name."""
    key = re.search(r'Parser key "([^"]+)"', message)
    where = f" (in {key.group(1)})" if key else ""
    sentences: list[tuple[re.Pattern[str], Callable[..., str]]] = [
        (_OPTION, lambda name: f"no setting {name!r}{where}{_nearest(name, options)}"),
        (_KEY, lambda name: f"no setting {name!r}{where}{_nearest(name, options)}"),
        (_ARGUMENT, lambda words: _unknown_argument(words, options)),
        (_SUBCLASS, lambda name, base: f"{name} is not a {base.rsplit('.', 1)[-1]}{where}"),
        (_CLASS, lambda name: f"no class {name!r}{where}{_nearest(name, classes)}"),
        (_REQUIRED, lambda names: f"{names} must be given{where}"),
        (_VALUE, lambda kind, value: f"expected {_plain(kind)}{where}, got {value.strip()}"),
        (_CHOICE, lambda name, known: f"no choice {name!r}{where}; choose from {known}"),
    ]
    for pattern, sentence in sentences:
        # The last match is the innermost: the setting itself and not the class around it.
        if found := pattern.findall(message):
            groups = found[-1] if isinstance(found[-1], tuple) else (found[-1],)
            return sentence(*groups)
    return " ".join(message.split())


def _unknown_argument(words: str, options: Iterable[str]) -> str:
    names = [word for word in words.split() if word.startswith("-")] or [words]
    name = names[0].split("=")[0]
    return f"no setting {name}{_nearest(name.lstrip('-'), options, prefix='--')}"


def _nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    names = set(known)
    if name in names:  # of another class: data.encoder, where only the model has an encoder
        return "; the class that was chosen does not take it"
    close = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.35)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _plain(kind: str) -> str:
    return re.sub(r"<class '([^']+)'>", r"\1", kind)


def expand_shard(arguments: list[str]) -> list[str]:
    """``--shard`` as the setting it stands for, ``--data.shard``."""
    return [
        f"--data.{argument[2:]}" if argument.partition("=")[0] == "--shard" else argument
        for argument in arguments
    ]
