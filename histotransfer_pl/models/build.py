"""Heads from their records."""

import functools
import importlib
from collections.abc import Callable

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.models.heads import MILHead
from histotransfer_pl.records.run import ClassSpec

_OWN = "histotransfer_pl.models."


def build_head(spec: ClassSpec, *, allow_foreign: bool = False) -> Callable[[int, int], MILHead]:
    """What makes the head of a record from the feature dimension D and the number of classes C.

    Args:
        spec: Class and settings.
        allow_foreign: Also import classes that are not of this package. A model file must not be
            able to do that by itself: importing is executing.
    """
    place, _, name = spec.class_path.rpartition(".")
    foreign = spec.init_args.get("module")
    wanted = str(foreign) if foreign else spec.class_path
    if (foreign or not spec.class_path.startswith(_OWN)) and not allow_foreign:
        raise ConfigError(
            f"the head is {wanted}, which is no class of histotransfer_pl: importing it executes "
            "code; where you trust it, say so with allow_foreign (--allow_foreign true)"
        )
    try:
        found = getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"no head {spec.class_path!r} ({error})") from error
    if not (isinstance(found, type) and issubclass(found, MILHead)):
        raise ConfigError(f"{spec.class_path} is no head, expected a subclass of MILHead")
    return functools.partial(found, **spec.init_args)
