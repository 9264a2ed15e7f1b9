"""The heads that a study names."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.models.heads import MILHead


def check_heads(heads: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a head without a class, or a class of ours that is mistyped.

    A dotted `class_path` is somebody else's; the run that imports it says what is wrong with it.
    """
    known = sorted({cls.__name__ for cls in _subclasses(MILHead)})
    for name, head in heads.items():
        if not isinstance(head, Mapping):
            raise ConfigError(
                f"heads.{name} is {head!r}; expected class_path and init_args: give "
                f"heads.{name}.class_path"
            )
        extra = sorted(set(head) - {"class_path", "init_args"})
        if "class_path" not in head or extra:
            raise ConfigError(
                f"heads.{name} has {', '.join(head) or 'nothing'}; expected class_path and "
                "init_args"
            )
        path = str(head["class_path"])
        if "." not in path and path not in known:
            close = difflib.get_close_matches(path, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"heads.{name}: no head {path!r}{hint}; heads: {', '.join(known)}")


def averages_first(head: Mapping[str, Any]) -> bool:
    """Whether a head needs of a slide no more than the mean of its patches."""
    settings = head.get("init_args") or {}
    return str(head["class_path"]).endswith("MeanPoolHead") and settings.get("hidden") == []


def _subclasses(cls: type) -> Iterator[type]:
    children: list[type] = cls.__subclasses__()
    for child in children:
        yield child
        yield from _subclasses(child)
