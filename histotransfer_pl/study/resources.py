"""What each kind of step asks of a machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from histotransfer_pl.errors import ConfigError

KINDS = (
    "prepare", "extract", "extract_tuned", "cost", "fit", "test", "external", "predict", "select",
    "finetune", "similarity", "gain", "report",
)  # fmt: skip
"""Kinds of steps, in the order of a study."""

ALL = "all"


@dataclass(frozen=True)
class Resources:
    """What a step may take; what is null is left to the cluster.

    Attributes:
        minutes: Longest time of a task; one that comes to it is queued again and goes on.
        partition: Partition (queue) of the cluster.
        mem_gb: Memory.
        cpus: Cores.
        gpus: GPUs; on one machine null means all.
        sbatch: Further options of sbatch, such as ``{account: lab, qos: low}``.
    """

    minutes: int = 240
    partition: str | None = None
    mem_gb: float | None = None
    cpus: int | None = None
    gpus: int | None = None
    sbatch: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name, least in (("minutes", 1), ("mem_gb", 0.1), ("cpus", 1), ("gpus", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or value < least):
                raise ConfigError(f"resources: {name} is {value!r}, expected {least} or more")


def resources_of(settings: Mapping[str, Any], kind: str) -> Resources:
    """What a kind of step asks for: the settings of `all`, and its own over them."""
    chosen = {**(settings.get(ALL) or {}), **(settings.get(kind) or {})}
    return Resources(**chosen)


def check_resources(settings: Mapping[str, Any]) -> None:
    """Refuse kinds and settings that do not exist."""
    known = [item.name for item in fields(Resources)]
    for kind, chosen in settings.items():
        if kind not in (ALL, *KINDS):
            raise ConfigError(
                f"resources names {kind!r}, which is no kind of step: {ALL}, {', '.join(KINDS)}"
            )
        if not isinstance(chosen, Mapping):
            raise ConfigError(
                f"resources.{kind} holds {chosen!r}, expected settings such as {{gpus: 1}}"
            )
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise ConfigError(
                f"resources.{kind} has no setting {unknown[0]!r}: it knows {', '.join(known)}"
            )
        resources_of(settings, kind)
