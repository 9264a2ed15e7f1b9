"""Reductions over packed bags: the patches of S slides concatenated, with the length of each bag.

Packed bags need no padding and no mask, so a slide gives the same result alone or among others.
Two kernels serve two regimes (two CPU threads, 64 features, softmax and weighted sum, forward and
backward, milliseconds):

============================ ======== ================== ===================
bags                         `split`  `segment_reduce`   `index_add`
============================ ======== ================== ===================
1 x 20,000                   1.7      6.2                12.6
8 ragged, 200 to 20,000      4.6      14                 68
32 x 100                     2.1      0.7                0.5
256 x 5                      8.5      0.4                0.3
============================ ======== ================== ===================

So slides go bag by bag through `torch.split`, whose weighted sum is one matrix product, and many
tiny bags (MUSK, MNIST-bags) through `torch.segment_reduce`. `index_add` is left out because it
adds in no fixed order on a GPU, and the same command twice must give the same metrics.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from histotransfer_pl.errors import ConfigError

# Where the table above crosses over; both sides agree within rounding, so its place is uncritical.
_SHORT_BAG = 100
_MANY_BAGS = 8


def segment_softmax(logits: Tensor, lengths: Tensor) -> Tensor:
    """Softmax within each bag.

    Args:
        logits: (sumN,) one number per patch, bag after bag.
        lengths: (S,) integer number of patches of each bag; kept on the CPU it costs no wait.

    Returns:
        (sumN,) weights that sum to one within each bag; float32 also for half-precision logits.

    Raises:
        ConfigError: A bag is empty, or the lengths do not add up to the rows.
    """
    sizes = bag_sizes(logits, lengths)
    logits = _at_least_float32(logits)  # (sumN,)
    if not _many_short(sizes):
        return torch.cat([bag.softmax(0) for bag in torch.split(logits, sizes)])  # (sumN,)
    lengths = lengths.to(logits.device)  # (S,)
    top = _reduce(logits.detach(), lengths, "max")  # (S,), only shifts: no gradient needed
    raised = (logits - _spread(top, lengths, logits)).exp()  # (sumN,)
    return raised / _spread(_reduce(raised, lengths, "sum"), lengths, logits)  # (sumN,)


def segment_weighted_sum(values: Tensor, weights: Tensor, lengths: Tensor) -> Tensor:
    """Sum of weight times value within each bag, in float32 also under autocast.

    Args:
        values: (sumN, D) features of the patches.
        weights: (sumN,) weight of each patch.
        lengths: (S,) number of patches of each bag.

    Returns:
        (S, D) one vector per bag.

    Raises:
        ConfigError: A bag is empty, or the lengths do not add up to the rows.
    """
    sizes = bag_sizes(values, lengths)
    values, weights = _at_least_float32(values), _at_least_float32(weights)
    if _many_short(sizes):
        return _reduce(values * weights[:, None], lengths.to(values.device), "sum")  # (S, D)
    with torch.autocast(device_type=values.device.type, enabled=False):
        pairs = zip(torch.split(weights, sizes), torch.split(values, sizes), strict=True)
        return torch.stack([weight @ value for weight, value in pairs])  # (S, D)


def segment_sum(values: Tensor, lengths: Tensor) -> Tensor:
    """Sum of each bag: (sumN, ...) and (S,) to (S, ...); errors as `segment_softmax`."""
    return _each_bag(values, lengths, "sum", lambda bag: bag.sum(0))


def segment_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean of each bag: (sumN, ...) and (S,) to (S, ...); errors as `segment_softmax`."""
    return _each_bag(values, lengths, "mean", lambda bag: bag.mean(0))


def segment_max(values: Tensor, lengths: Tensor) -> Tensor:
    """Largest value of each bag: (sumN, ...) and (S,) to (S, ...); errors as `segment_softmax`."""
    return _each_bag(values, lengths, "max", lambda bag: bag.amax(0))


def segment_spread(values: Tensor, lengths: Tensor) -> Tensor:
    """Give each patch the value of its bag: (S, ...) and (S,) to (sumN, ...)."""
    return values.repeat_interleave(lengths.to(values.device), dim=0)


def bag_sizes(rows: Tensor, lengths: Tensor) -> list[int]:
    """Lengths as a list, after checking that they cut `rows` (sumN, ...) into non-empty bags.

    Raises:
        ConfigError: A bag is empty, or the lengths do not add up to the rows.
    """
    if lengths.ndim != 1 or lengths.is_floating_point() or not len(lengths):
        found = f"{tuple(lengths.shape)} of {lengths.dtype}"
        raise ConfigError(f"bag lengths are {found}: give one integer per slide, shape (S,)")
    sizes: list[int] = lengths.tolist()
    if min(sizes) < 1:
        empty = [place for place, size in enumerate(sizes) if size < 1]
        raise ConfigError(
            f"the bag at place {empty[0]} of the batch has {sizes[empty[0]]} patches "
            f"({len(empty)} such in {len(sizes)}): leave slides without patches out of the cohort"
        )
    if sum(sizes) != len(rows):
        raise ConfigError(
            f"{len(rows)} rows in the packed bags, but their lengths add up to {sum(sizes)}: "
            "cut features and lengths from the same slides"
        )
    return sizes


def _each_bag(
    values: Tensor,
    lengths: Tensor,
    name: Literal["sum", "mean", "max"],
    one_bag: Callable[[Tensor], Tensor],
) -> Tensor:
    sizes = bag_sizes(values, lengths)
    values = _at_least_float32(values)
    if _many_short(sizes):
        return _reduce(values, lengths.to(values.device), name)
    return torch.stack([one_bag(bag) for bag in torch.split(values, sizes)])


def _many_short(sizes: list[int]) -> bool:
    return len(sizes) >= _MANY_BAGS and sum(sizes) < _SHORT_BAG * len(sizes)


def _reduce(values: Tensor, lengths: Tensor, name: Literal["sum", "mean", "max"]) -> Tensor:
    # unsafe: the lengths were checked by bag_sizes
    return torch.segment_reduce(values.contiguous(), name, lengths=lengths, axis=0, unsafe=True)


def _spread(values: Tensor, lengths: Tensor, like: Tensor) -> Tensor:
    return values.repeat_interleave(lengths, output_size=len(like))


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
