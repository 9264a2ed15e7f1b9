"""What differs between what a store holds and what was asked for."""

from collections.abc import Collection, Mapping
from typing import Any

from typing_extensions import override

from histotransfer_pl.store.metadata import Json, plain_json


class _Absent:
    @override
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def differences(
    found: Mapping[str, Any], expected: Mapping[str, Any], ignore: Collection[str] = ()
) -> list[str]:
    """One line per setting in which two nested mappings differ.

    Args:
        found: What the store holds.
        expected: What was asked for.
        ignore: Dotted names that may differ.

    Returns:
        Lines such as ``tissue.method: the store has 'otsu', asked for 'none'``; none if equal.
    """
    held, asked = _flatten(found), _flatten(plain_json(expected, "the settings asked for"))
    names = [name for name in {**held, **asked} if name not in ignore]
    return [
        f"{name}: the store has {held.get(name, _ABSENT)!r}, asked for {asked.get(name, _ABSENT)!r}"
        for name in names
        if held.get(name, _ABSENT) != asked.get(name, _ABSENT)
    ]


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> Json:
    flat: Json = {}
    for name, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
