"""What differs between what a store holds and what was asked for."""

from collections.abc import Collection, Mapping
from typing import Any

from histotransfer_pl.records import record
from histotransfer_pl.store.metadata import plain_json

_WORDS = "{name}: the store has {first}, asked for {second}"


def differences(
    found: Mapping[str, Any], expected: Mapping[str, Any], ignore: Collection[str] = ()
) -> str:
    """The settings in which two nested mappings differ, in one line; empty if equal.

    Args:
        found: What the store holds.
        expected: What was asked for.
        ignore: Dotted names that may differ, with all that is inside them.
    """
    asked = plain_json(expected, "the settings asked for")
    return "; ".join(record.differences(found, asked, ignore, _WORDS))
