import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from histotransfer_pl.analysis.cka import linear_cka
from histotransfer_pl.analysis.minibatch_cka import MinibatchCKA
from histotransfer_pl.errors import AnalysisError

N = 96
X_LAYERS = {"stem": 5, "layer1": 8, "layer2": 40}
Y_LAYERS = {"block0": 6, "block1": 9}


@pytest.fixture
def networks() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    common = torch.randn(N, 4, generator=generator, dtype=torch.float64)

    def features(widths: dict[str, int]) -> dict[str, Tensor]:
        return {
            name: common @ torch.randn(4, width, generator=generator, dtype=torch.float64)
            + torch.randn(N, width, generator=generator, dtype=torch.float64)
            for name, width in widths.items()
        }

    return features(X_LAYERS), features(Y_LAYERS)


def feed(
    metric: MinibatchCKA, x: dict[str, Tensor], y: dict[str, Tensor], batches: list[slice]
) -> MinibatchCKA:
    for rows in batches:
        metric.update(
            {name: values[rows] for name, values in x.items()},
            {name: values[rows] for name, values in y.items()},
        )
    return metric


def cut(size: int, stop: int = N) -> list[slice]:
    return [slice(start, min(start + size, stop)) for start in range(0, stop, size)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (10, 0.5437308),
        (20, 0.5337184),
        (25, 0.5132675),
        (50, 0.5308440),
        (100, 0.5134564895055259),
    ],
)
def test_golden_values(size: int, expected: float) -> None:
    rng = np.random.RandomState(1337)
    x = rng.randn(100, 10)
    y = rng.randn(100, 10) + x
    metric = MinibatchCKA(["x"], ["y"])
    feed(metric, {"x": torch.tensor(x)}, {"y": torch.tensor(y)}, cut(size, 100))
    assert metric.compute().item() == pytest.approx(expected, abs=1e-6)


def test_one_batch_equals_the_full_form_for_every_pair_of_layers(
    networks: tuple[dict[str, Tensor], dict[str, Tensor]],
) -> None:
    x, y = networks
    matrix = feed(MinibatchCKA(list(x), list(y)), x, y, cut(N)).compute()
    assert matrix.shape == (3, 2)
    for i, x_layer in enumerate(x):
        for j, y_layer in enumerate(y):
            expected = linear_cka(x[x_layer], y[y_layer], debiased=True)
            assert matrix[i, j].item() == pytest.approx(expected, abs=1e-12)


def test_two_ranks_equal_one(networks: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    x, y = networks
    batches = cut(16)
    alone = feed(MinibatchCKA(list(x), list(y)), x, y, batches)
    ranks = [
        feed(MinibatchCKA(list(x), list(y)), x, y, share)
        for share in (batches[0::2], batches[1::2])
    ]
    # what the sum over processes does to each state
    together = MinibatchCKA(list(x), list(y))
    for name, reduce in together._reductions.items():
        assert callable(reduce)
        setattr(together, name, reduce(torch.stack([getattr(rank, name) for rank in ranks])))
    together._update_count = 1
    torch.testing.assert_close(together.compute(), alone.compute(), rtol=1e-12, atol=1e-12)
    assert together.patches == alone.patches == N


def test_more_batches_lose_little(networks: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    x, y = networks
    full = feed(MinibatchCKA(list(x), list(y)), x, y, cut(N)).compute()
    small = feed(MinibatchCKA(list(x), list(y)), x, y, cut(12)).compute()
    assert (full - small).abs().max() < 0.1


def test_a_network_with_itself(networks: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    x, _ = networks
    layers = list(x)
    fast, slow = MinibatchCKA(layers, layers), MinibatchCKA(layers, layers)
    fast.update(x, x)  # one object: the Gram matrices are shared
    slow.update(x, dict(x))
    torch.testing.assert_close(fast.compute(), slow.compute())
    ones = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(fast.compute().diagonal(), ones)
    torch.testing.assert_close(fast.compute(), fast.compute().T)


def test_a_layer_that_a_shared_object_names_otherwise_is_not_mixed_up(
    networks: tuple[dict[str, Tensor], dict[str, Tensor]],
) -> None:
    x, _ = networks
    metric = MinibatchCKA(["stem"], ["layer2"])
    metric.update(x, x)
    expected = linear_cka(x["stem"], x["layer2"], debiased=True)
    assert metric.compute().item() == pytest.approx(expected, abs=1e-12)


def test_a_short_last_batch_is_weighted_or_left_out(
    networks: tuple[dict[str, Tensor], dict[str, Tensor]],
) -> None:
    x, y = networks
    metric = feed(MinibatchCKA(list(x), list(y)), x, y, [slice(0, 90), slice(90, 93)])
    first = feed(MinibatchCKA(list(x), list(y)), x, y, [slice(0, 90)])
    torch.testing.assert_close(metric.compute(), first.compute())
    assert (int(metric.patches), int(metric.patches_left_out)) == (90, 3)
    # eight noisy patches move the value by about their share
    uneven = feed(MinibatchCKA(list(x), list(y)), x, y, [slice(0, 88), slice(88, 96)])
    assert (uneven.compute() - first.compute()).abs().max() < 0.15
    assert int(uneven.patches) == 96


def test_maps_and_half_precision(networks: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    x, y = networks
    maps = {name: values.float().reshape(N, -1, 1, 1).bfloat16() for name, values in x.items()}
    rough = feed(MinibatchCKA(list(x), list(y)), maps, y, cut(32)).compute()
    exact = feed(MinibatchCKA(list(x), list(y)), x, y, cut(32)).compute()
    assert rough.dtype == torch.float64
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.01)


def test_reset_and_widths(networks: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    x, y = networks
    metric = feed(MinibatchCKA(list(x), list(y)), x, y, cut(32))
    expected = metric.compute()
    metric.reset()
    assert metric.patches == 0
    torch.testing.assert_close(feed(metric, x, y, cut(32)).compute(), expected)
    assert metric.widths["x.layer2"] == (40,)
    assert metric.widths["y.block0"] == (6,)


def test_a_constant_layer_is_nan_and_named(
    networks: tuple[dict[str, Tensor], dict[str, Tensor]], caplog: pytest.LogCaptureFixture
) -> None:
    x, y = networks
    dead = x | {"layer1": torch.ones(N, 8)}
    metric = feed(MinibatchCKA(list(x), list(y)), dead, y, cut(32))
    with caplog.at_level(logging.WARNING):
        matrix = metric.compute()
    assert matrix.isnan().all(1).tolist() == [False, True, False]
    assert "without CKA: layer1" in caplog.text


def test_what_does_not_fit_is_refused(
    networks: tuple[dict[str, Tensor], dict[str, Tensor]],
) -> None:
    x, y = networks
    metric = MinibatchCKA(list(x), list(y))
    with pytest.raises(AnalysisError, match="no features of y at block1; there are block0"):
        metric.update(x, {"block0": y["block0"]})
    with pytest.raises(AnalysisError, match=r"different numbers of patches: .*'y.block1': 95"):
        metric.update(x, y | {"block1": y["block1"][1:]})
    with pytest.raises(AnalysisError, match="layer stem: features are not finite"):
        metric.update(x | {"stem": torch.full((N, 5), torch.inf)}, y)
    with pytest.raises(AnalysisError, match="name at least one of each network"):
        MinibatchCKA([], ["a"])


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
def test_without_patches_there_is_no_value() -> None:
    with pytest.raises(AnalysisError, match="no batch of at least 4 patches"):
        MinibatchCKA(["a"], ["b"]).compute()
