"""Base of the records: a JSON round trip, and what differs between two of them in words."""

import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, fields
from functools import cache
from typing import Any, Literal, Self

from histotransfer_pl.errors import RecordError

Json = dict[str, Any]

_NOTHING = object()
_PLAIN: dict[Any, tuple[type, ...]] = {
    str: (str,),
    int: (int,),
    bool: (bool,),
    # 1.0 is written as 1 by other programs
    float: (float, int),
}


class Record:
    """Base of frozen dataclasses whose fields are JSON values, records, or tuples of them.

    Example:
        >>> from histotransfer_pl.records.encoder import WeightsRef
        >>> weights = WeightsRef("random", seed=0)
        >>> WeightsRef.from_json(weights.to_json()) == weights
        True
        >>> weights.differs(WeightsRef("random", seed=1))
        ['seed: 0, not 1']
    """

    def to_json(self) -> Json:
        """The fields as plain JSON types, nested records as dicts, tuples as lists."""
        plain: Json = _plain(asdict(typing.cast(Any, self)))
        return plain

    @classmethod
    def from_json(cls, values: object) -> Self:
        """The record that ``to_json`` wrote.

        Raises:
            RecordError: A field is unknown, missing, or of another type; it says which.
        """
        return typing.cast(Self, _read_record(cls, values, cls.__name__))

    def differs(self, other: "Record", ignore: Collection[str] = ()) -> list[str]:
        """One line per field in which another record is unlike, as ``name: mine, not theirs``."""
        return differences(self.to_json(), other.to_json(), ignore=ignore)


def differences(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    ignore: Collection[str] = (),
    words: str = "{name}: {first}, not {second}",
) -> list[str]:
    """One line per setting in which two nested mappings of JSON values differ.

    Example:
        >>> differences({"a": {"b": 1}}, {"a": {}})
        ['a.b: 1, not nothing']
    """
    held, asked = _flatten(first), _flatten(second)
    return [
        words.format(name=name, first=_shown(held, name), second=_shown(asked, name))
        for name in {**held, **asked}
        if held.get(name, _NOTHING) != asked.get(name, _NOTHING) and not _ignored(name, ignore)
    ]


def _ignored(name: str, ignore: Collection[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in ignore)


def _shown(flat: Json, name: str) -> str:
    return repr(flat[name]) if name in flat else "nothing"


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> Json:
    flat: Json = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read_record(kind: type, values: object, where: str) -> object:
    if not isinstance(values, Mapping):
        raise RecordError(f"{where} holds {values!r}, expected the fields of {kind.__name__}")
    known = {item.name: item for item in fields(kind) if item.init}
    if unknown := sorted(str(name) for name in set(values) - set(known)):
        raise RecordError(
            f"{where} has no {', '.join(unknown)}, only {', '.join(known)}: was it written by a "
            "later version?"
        )
    needed = [
        name
        for name, item in known.items()
        if item.default is MISSING and item.default_factory is MISSING and name not in values
    ]
    if needed:
        raise RecordError(f"{where} lacks {', '.join(needed)}")
    hints = _hints(kind)
    given = {name: _read(hints[name], item, f"{where}.{name}") for name, item in values.items()}
    return kind(**given)


def _read(hint: Any, value: object, where: str) -> object:
    """A JSON value as the type that a field has."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _read_union(arguments, value, where)
    if isinstance(hint, type) and issubclass(hint, Record):
        return _read_record(hint, value, where)
    if hint is Any or (origin is Literal and value in arguments):
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping and isinstance(value, Mapping):
        return {str(k): _read(arguments[1], item, f"{where}.{k}") for k, item in value.items()}
    return _read_plain(hint, value, where)


def _read_plain(hint: Any, value: object, where: str) -> object:
    # True is an int to Python, but not to whoever wrote the file
    if isinstance(value, _PLAIN.get(hint, ())) and isinstance(value, bool) == (hint is bool):
        return float(value) if isinstance(value, int) and hint is float else value
    kinds = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    expected = " or ".join(map(repr, kinds)) or getattr(hint, "__name__", str(hint))
    raise RecordError(f"{where} holds {value!r}, expected {expected}")


def _read_union(kinds: tuple[Any, ...], value: object, where: str) -> object:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    for kind in others[:-1]:
        try:
            return _read(kind, value, where)
        except RecordError:
            continue  # the next member may take it; the last one's error stands for all
    return _read(others[-1], value, where)
