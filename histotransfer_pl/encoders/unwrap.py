"""The network inside a checkpoint: training programs wrap it in dicts and prefixes of their own."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from histotransfer_pl.errors import WeightsError

_DEEPEST = 3
"""Dicts in dicts that are looked into: the weights of an optimizer lie deeper or fit nowhere."""


@dataclass(frozen=True)
class Mismatch:
    """What keeps a state dict from being that of a network; nothing where it is."""

    missing: Sequence[str] = ()
    unexpected: Sequence[str] = ()
    shapes: Sequence[str] = ()

    @property
    def count(self) -> int:
        """How many keys are wrong."""
        return len(self.missing) + len(self.unexpected) + len(self.shapes)

    @override
    def __str__(self) -> str:
        return (
            f"{_names('missing', self.missing)}, {_names('unexpected', self.unexpected)}, "
            f"{_names('of another shape', self.shapes)}"
        )


@dataclass(frozen=True)
class FoundNetwork:
    """A network in a checkpoint.

    Attributes:
        place: Keys of the dicts and the prefix that lead to it, joined by dots; "" for the top.
        state: Its tensors, under the keys that the entry knows.
        left_out: Tensors beside it under the same dict that belong to something else.
    """

    place: str
    state: dict[str, Tensor]
    left_out: int


def find_network(
    content: Mapping[str, Any],
    fits: Callable[[Mapping[str, Tensor]], Mismatch],
    wanted: str | None,
) -> tuple[list[FoundNetwork], Mismatch]:
    """All networks in a checkpoint that fit, and what is wrong with the best of those that don't.

    Args:
        content: What the file holds.
        fits: Says what keeps tensors from being those of the network.
        wanted: Only networks whose place begins so; all when None.

    Returns:
        The networks, of a dict that is there twice value by value only the first; the smallest
        misfit.
    """
    found: list[FoundNetwork] = []
    best: Mismatch | None = None
    seen: list[dict[str, Tensor]] = []
    for place, state in _state_dicts(content):
        if any(_same(state, earlier) for earlier in seen):
            continue
        seen.append(state)
        taken: list[str] = []
        for prefix in ("", *_prefixes(state)):
            if any(prefix.startswith(shorter) for shorter in taken):
                continue  # a longer prefix can only lose keys
            inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            name = ".".join(filter(None, (place, prefix.rstrip("."))))
            if wanted is not None and not _is_under(name, wanted):
                continue
            misfit = fits(inner)
            if best is None or misfit.count < best.count:
                best = misfit
            if misfit.count == 0:
                found.append(FoundNetwork(name, inner, len(state) - len(inner)))
                taken.append(prefix)
    return found, best or Mismatch()


def key_mismatch(
    network: nn.Module, state: Mapping[str, Tensor], optional: Collection[str] = ()
) -> Mismatch:
    """What keeps a state dict from being that of a network."""
    expected = network.state_dict(keep_vars=True)
    needed = [key for key in expected if not key.endswith("num_batches_tracked")]
    if not any(key in state for key in optional):
        needed = [key for key in needed if key not in optional]
    return Mismatch(
        missing=[key for key in needed if key not in state],
        unexpected=[key for key in state if key not in expected],
        shapes=[
            f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in needed
            if key in state and state[key].shape != expected[key].shape
        ],
    )


def one_network(found: Sequence[FoundNetwork], name: str) -> FoundNetwork:
    """The network to take."""
    if len(found) > 1:
        places = ", ".join(item.place or "(the file itself)" for item in found)
        raise WeightsError(
            f"{name} holds {len(found)} networks that fit: {places}; set weights_key to the one "
            "that is meant"
        )
    return found[0]


def state_dicts(content: object) -> list[str]:
    """Places of all dicts of tensors in a checkpoint."""
    return [place for place, _ in _state_dicts(content)]


def _state_dicts(
    content: object, place: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(content, Mapping):
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    if depth < _DEEPEST:
        for key, value in content.items():
            yield from _state_dicts(value, f"{place}.{key}".lstrip("."), depth + 1)


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """Every beginning of keys that ends in a dot, shortest first."""
    found: dict[str, None] = {}
    for key in state:
        parts = key.split(".")
        for count in range(1, min(len(parts), _DEEPEST + 2)):
            found[".".join(parts[:count]) + "."] = None
    return sorted(found, key=len)


def _is_under(place: str, wanted: str) -> bool:
    return f"{place}.".startswith(f"{wanted.rstrip('.')}.")


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) for key, value in first.items()
    )


def _names(what: str, names: Sequence[str], limit: int = 8) -> str:
    if not names:
        return f"0 {what}"
    more = ", ..." if len(names) > limit else ""
    return f"{len(names)} {what} ({', '.join(names[:limit])}{more})"
