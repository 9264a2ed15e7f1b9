from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.models.pooling import (
    segment_max,
    segment_mean,
    segment_softmax,
    segment_spread,
    segment_sum,
    segment_weighted_sum,
)
from tests.models.reference import softmax

# few long bags and many short ones run through different kernels
LONG = [300, 1, 700]
SHORT = [1, 7, 3, 12, 5, 1, 2, 40, 6]
BOTH = pytest.mark.parametrize("sizes", [LONG, SHORT], ids=["long", "short"])


def packed(sizes: list[int], *columns: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(sum(sizes), *columns, generator=generator, dtype=torch.float64)
    return rows, torch.tensor(sizes)


@BOTH
def test_softmax_equals_a_slow_one_per_bag(sizes: list[int]) -> None:
    logits, lengths = packed(sizes)
    expected = np.concatenate([softmax(bag.numpy()) for bag in torch.split(logits, sizes)])
    np.testing.assert_allclose(segment_softmax(logits, lengths), expected, rtol=1e-12)


@BOTH
def test_softmax_survives_extreme_logits(sizes: list[int]) -> None:
    logits, lengths = packed(sizes)
    shift = segment_spread(torch.linspace(-1e4, 1e4, len(sizes)), lengths)
    huge = (logits + shift).float()
    attention = segment_softmax(huge * 10, lengths)
    assert torch.isfinite(attention).all()
    torch.testing.assert_close(segment_sum(attention, lengths), torch.ones(len(sizes)))


@BOTH
@pytest.mark.parametrize(
    ("reduce", "numpy_reduce"),
    [(segment_sum, np.sum), (segment_mean, np.mean), (segment_max, np.max)],
)
@pytest.mark.parametrize("columns", [(), (5,)], ids=["vector", "matrix"])
def test_reductions_equal_numpy(
    sizes: list[int],
    columns: tuple[int, ...],
    reduce: Callable[[Tensor, Tensor], Tensor],
    numpy_reduce: Callable[..., np.ndarray],
) -> None:
    values, lengths = packed(sizes, *columns)
    bags = np.split(values.numpy(), np.cumsum(sizes)[:-1])
    expected = np.stack([numpy_reduce(bag, axis=0) for bag in bags])
    np.testing.assert_allclose(reduce(values, lengths), expected, rtol=1e-12, atol=1e-12)


@BOTH
def test_weighted_sum_equals_numpy(sizes: list[int]) -> None:
    values, lengths = packed(sizes, 6)
    weights, _ = packed(sizes)
    cuts = np.cumsum(sizes)[:-1]
    bags = zip(np.split(values.numpy(), cuts), np.split(weights.numpy(), cuts), strict=True)
    expected = np.stack([weight @ value for value, weight in bags])
    np.testing.assert_allclose(segment_weighted_sum(values, weights, lengths), expected, atol=1e-12)


@pytest.mark.parametrize(
    "sizes", [[3, 1, 4], [1, 2, 1, 1, 3, 1, 1, 1]], ids=["split", "segment_reduce"]
)
def test_gradients(sizes: list[int]) -> None:
    logits, lengths = packed(sizes)
    values, _ = packed(sizes, 3)
    logits.requires_grad_()
    values.requires_grad_()

    def pooled(scores: Tensor, rows: Tensor) -> Tensor:
        return segment_weighted_sum(rows, segment_softmax(scores, lengths), lengths)

    assert torch.autograd.gradcheck(lambda scores: segment_softmax(scores, lengths), (logits,))
    assert torch.autograd.gradcheck(pooled, (logits, values))
    assert torch.autograd.gradcheck(lambda rows: segment_mean(rows, lengths), (values,))
    assert torch.autograd.gradcheck(lambda rows: segment_max(rows, lengths), (values,))


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(sizes: list[int], dtype: torch.dtype) -> None:
    values, lengths = packed(sizes, 4)
    logits, _ = packed(sizes)
    values, logits = values.to(dtype), logits.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention = segment_softmax(logits, lengths)
        pooled = segment_weighted_sum(values, attention, lengths)
        mean = segment_mean(values, lengths)
    assert attention.dtype == pooled.dtype == mean.dtype == torch.float32
    exact = segment_softmax(logits.double(), lengths)
    torch.testing.assert_close(attention.double(), exact, rtol=1e-5, atol=1e-7)
    expected = segment_weighted_sum(values.double(), exact, lengths)
    torch.testing.assert_close(pooled.double(), expected, rtol=1e-5, atol=1e-6)


def test_spread_gives_each_patch_its_bags_value() -> None:
    spread = segment_spread(torch.tensor([5.0, 7.0]), torch.tensor([2, 3]))
    assert spread.tolist() == [5, 5, 7, 7, 7]


@pytest.mark.parametrize(
    "reduce", [segment_softmax, segment_sum, segment_mean, segment_max], ids=lambda f: f.__name__
)
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (torch.tensor([4, 0, 6]), "place 1 of the batch has 0 patches"),
        (torch.tensor([4, -2, 8]), "place 1 of the batch has -2 patches"),
        (torch.tensor([4, 5]), "10 rows .* add up to 9"),
        (torch.tensor([4.0, 6.0]), "one integer per slide"),
        (torch.tensor([[4, 6]]), "one integer per slide"),
        (torch.tensor([], dtype=torch.int64), "one integer per slide"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(
    reduce: Callable[[Tensor, Tensor], Tensor], lengths: Tensor, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        reduce(torch.randn(10), lengths)
