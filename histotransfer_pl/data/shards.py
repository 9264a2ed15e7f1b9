"""Shards of a list of slides: disjoint parts that processes take without asking each other.

Every process computes the same parts from the same list, so nothing has to be coordinated: a part
whose process died is started again with its number, and a run without a shard completes whatever
is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from typing_extensions import override

from histotransfer_pl.errors import ConfigError

_T = TypeVar("_T")

SCHEDULERS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE", ""),
    ("BATCH_TASK_INDEX", "BATCH_TASK_COUNT", ""),
    ("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT", ""),
    ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", ""),
    ("RANK", "WORLD_SIZE", ""),
)
"""Environment variables of array jobs: number of the task, how many there are, the first number.

SLURM, AWS Batch, Google Batch, Cloud Run, Kubernetes (which tells no number of tasks: set
``JOB_COMPLETIONS`` in the manifest, or say ``auto/N``), torchrun.
"""


@dataclass(frozen=True)
class Shard:
    """A part of a list: the ``index``-th (from 0) of ``count``."""

    index: int
    count: int

    def __post_init__(self) -> None:
        """Refuse parts that do not exist."""
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"shard {self.index}/{self.count} does not exist: shards are numbered from 0 to "
                "one less than their number, such as 0/4 to 3/4"
            )

    @override
    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def read_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """The shard that a setting asks for.

    Args:
        text: ``i/n``; ``auto`` takes both numbers from the array job this process belongs to,
            ``auto/n`` only the first (for array jobs of which some tasks are repeated).
        environment: Environment variables.
    """
    first, slash, second = text.partition("/")
    if first == "auto":
        return _from_scheduler(second if slash else None, environment)
    if not (slash and first.isdecimal() and second.isdecimal()):
        raise ConfigError(
            f"shard {text!r} is none: give i/n with i from 0, such as 0/4, or auto in an array job"
        )
    return Shard(int(first), int(second))


def shard_of(items: Sequence[_T], sizes: Sequence[int], index: int, count: int) -> list[_T]:
    """A part of the items, of about the same size as the others.

    Args:
        items: The whole list.
        sizes: Size of each, such as the bytes of a slide's file.
        index: Which part, from 0.
        count: How many parts there are.
    """
    return share_out(items, sizes, count)[index]


def share_out(items: Sequence[_T], sizes: Sequence[int], parts: int) -> list[list[_T]]:
    """All parts: the largest item goes first, each to the part that is smallest so far.

    Longest processing time first; no part exceeds 4/3 of the best possible largest one
    (Graham 1969, SIAM J. Appl. Math. 17, 416).
    """
    loads = [0] * parts
    part_of = np.zeros(len(items), np.int64)  # (items,)
    for place in sorted(range(len(items)), key=lambda place: -sizes[place]):
        least = loads.index(min(loads))
        part_of[place] = least
        # an item without a size counts a little, so that these are shared out too
        loads[least] += max(1, sizes[place])
    return [
        [item for item, own in zip(items, part_of, strict=True) if own == n] for n in range(parts)
    ]


def _from_scheduler(count: str | None, environment: Mapping[str, str]) -> Shard:
    for index_name, count_name, first_name in SCHEDULERS:
        if index_name not in environment:
            continue
        index = int(environment[index_name])
        if count is not None and count.isdecimal():
            return Shard(index, int(count))
        if count is not None or count_name not in environment:
            raise ConfigError(
                f"{index_name} is {index}, but not of how many: give --shard auto/N, or set "
                f"{count_name}"
            )
        return Shard(index - int(environment.get(first_name, 0)), int(environment[count_name]))
    raise ConfigError(
        "shard auto needs an array job, but none of "
        f"{', '.join(name for name, _, _ in SCHEDULERS)} is set: give the shard as i/n, such as 0/4"
    )
