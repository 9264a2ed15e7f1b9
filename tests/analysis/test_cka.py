from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from histotransfer_pl.analysis.cka import (
    cka_of_grams,
    hsic1,
    linear_cka,
    linear_gram,
    rbf_cka,
    rbf_gram,
    u_centred,
)
from histotransfer_pl.errors import AnalysisError

ALL = pytest.mark.parametrize(
    "cka",
    [
        linear_cka,
        lambda x, y: linear_cka(x, y, debiased=True),
        rbf_cka,
        lambda x, y: rbf_cka(x, y, debiased=True),
    ],
    ids=["linear", "debiased", "rbf", "debiased rbf"],
)
Cka = Callable[[Tensor, Tensor], float]


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """The features behind the golden values of the literature."""
    rng = np.random.RandomState(1337)
    x = rng.randn(100, 10)
    return torch.tensor(x), torch.tensor(rng.randn(100, 10) + x)


def test_golden_values(pair: tuple[Tensor, Tensor]) -> None:
    x, y = pair
    assert linear_cka(x, y) == pytest.approx(0.5576132566117589, abs=1e-9)
    assert linear_cka(x, y, debiased=True) == pytest.approx(0.5134564895055259, abs=1e-9)
    assert rbf_cka(x, y, fraction=0.5) == pytest.approx(0.6548311822614982, abs=1e-9)
    assert hsic1(x @ x.T, y @ y.T) == pytest.approx(9.895955787045914, abs=1e-9)


def test_linear_is_the_feature_space_definition(pair: tuple[Tensor, Tensor]) -> None:
    x, y = (np.asarray(values - values.mean(0)) for values in pair)
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert linear_cka(*pair) == pytest.approx(expected, abs=1e-12)


def test_hsic1_is_the_published_formula(pair: tuple[Tensor, Tensor]) -> None:
    k, l = (np.asarray(values @ values.T) for values in pair)  # noqa: E741
    n = len(k)
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    ones = np.ones(n)
    expected = (
        np.trace(k @ l)
        + (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (ones @ k @ l @ ones)
    ) / (n * (n - 3))
    grams = tuple(values @ values.T for values in pair)
    assert hsic1(*grams) == pytest.approx(expected, abs=1e-10)
    # centring the features first changes nothing but the rounding
    centred = tuple(linear_gram(values + 100) for values in pair)
    assert hsic1(*centred) == pytest.approx(expected, abs=1e-8)


@ALL
def test_a_network_with_itself_is_one(cka: Cka, pair: tuple[Tensor, Tensor]) -> None:
    assert cka(pair[0], pair[0]) == pytest.approx(1, abs=1e-12)


@ALL
def test_rotation_shift_and_scale_do_not_matter(cka: Cka, pair: tuple[Tensor, Tensor]) -> None:
    x, y = pair
    rotation = torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64))[0]
    assert cka(3 * x @ rotation + 7, y) == pytest.approx(cka(x, y), abs=1e-9)
    stretched = x * torch.linspace(0.1, 5, 10)
    assert abs(cka(stretched, y) - cka(x, y)) > 0.01


@ALL
def test_only_a_common_order_of_patches_does_not_matter(
    cka: Cka, pair: tuple[Tensor, Tensor]
) -> None:
    x, y = pair
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert cka(x[order], y[order]) == pytest.approx(cka(x, y), abs=1e-9)
    assert cka(x[order], y) < cka(x, y) - 0.2


def test_only_the_debiased_form_sees_that_wide_features_are_unrelated() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(64, 512, generator=generator) for _ in range(2))
    assert linear_cka(x, y) > 0.85
    assert abs(linear_cka(x, y, debiased=True)) < 0.05


def test_maps_are_flattened_in_any_memory_format() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 6, 5, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(20, 7, generator=generator, dtype=torch.float64) + x[:, :1, 0, 0]
    expected = linear_cka(x.reshape(20, -1), y)
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-12)
    last = x.contiguous(memory_format=torch.channels_last)
    assert linear_cka(last, y) == pytest.approx(expected, abs=1e-9)


def test_wide_features_are_added_up_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(12, 50, dtype=torch.float64)
    whole = linear_gram(x)
    monkeypatch.setattr("histotransfer_pl.analysis.cka._COLUMNS", 7)
    torch.testing.assert_close(linear_gram(x), whole)


def test_a_large_common_mean_does_not_eat_the_digits() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(50, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    single = tuple((values + 1000).float() for values in (x, y))
    exact = linear_cka(x, y, debiased=True)
    assert linear_cka(*single, debiased=True) == pytest.approx(exact, abs=1e-4)


def test_autocast_does_not_reach_the_products() -> None:
    x = torch.randn(30, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = linear_gram(x)
    torch.testing.assert_close(under, linear_gram(x))


def test_rbf_gram_is_the_definition() -> None:
    x = torch.randn(15, 4, dtype=torch.float64)
    squared = torch.cdist(x, x).square().numpy()
    expected = np.exp(-squared / (2 * 0.8**2 * np.median(squared)))
    np.testing.assert_allclose(rbf_gram(x, fraction=0.8), expected, rtol=1e-9)


def test_u_centring_leaves_no_rows_and_no_diagonal() -> None:
    gram = linear_gram(torch.randn(9, 3))
    centred = u_centred(gram)
    torch.testing.assert_close(centred.sum(1), torch.zeros(9, dtype=torch.float64))
    assert centred.diagonal().abs().max() == 0
    assert gram.diagonal().min() > 0  # the input is left as it was


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.randn(9, 3), torch.randn(8, 3), "9 patches on one side, 8 on the other"),
        (torch.ones(9, 3), torch.randn(9, 3), "constant over the patches"),
        (torch.full((9, 3), torch.nan), torch.randn(9, 3), "not finite"),
    ],
)
def test_features_without_cka_are_refused(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        linear_cka(x, y)


def test_hsic1_needs_four_patches() -> None:
    with pytest.raises(AnalysisError, match="3 patches, but HSIC_1 needs at least 4"):
        linear_cka(torch.randn(3, 5), torch.randn(3, 5), debiased=True)


def test_rbf_needs_distances() -> None:
    with pytest.raises(AnalysisError, match="more than half of the patches have equal features"):
        rbf_gram(torch.ones(6, 2))


def test_grams_may_come_from_any_kernel(pair: tuple[Tensor, Tensor]) -> None:
    x, y = pair
    mixed = cka_of_grams(linear_gram(x), rbf_gram(y))
    assert 0 < mixed < 1
