"""Augmentation: the symmetries of the square, and stains as scikit-image separates them."""

from typing import Any

import numpy as np
import pytest
import torch
from skimage.color import combine_stains, separate_stains
from skimage.color.colorconv import hed_from_rgb, rgb_from_hed
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from histotransfer_pl.data.augment import augment, draw_changes, restain, turn


def patches(n: int, side: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(30, 226, (n, side, side, 3), generator=generator, dtype=torch.uint8)


def test_turns_are_the_eight_symmetries() -> None:
    patch = patches(1).numpy()[0]
    expected = [np.rot90(m, i) for m in (patch, patch[:, ::-1]) for i in range(4)]
    turned = turn(torch.from_numpy(patch).expand(8, -1, -1, -1), torch.arange(8)).numpy()
    for got, wanted in zip(turned, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert len({got.tobytes() for got in turned}) == 8


def test_restaining_is_that_of_scikit_image() -> None:
    rgb = patches(2).double().numpy() / 255
    scale, shift = np.array([1.1, 0.9, 1.0]), np.array([0.03, 0.02, 0.01])
    unit = -np.log(1e-6)  # scikit-image's unit of absorption
    stains = separate_stains(rgb, hed_from_rgb)
    expected = combine_stains(stains * scale + shift / unit, rgb_from_hed) * 255
    both = torch.tensor(np.stack([scale, shift]), dtype=torch.float32)[:, None].expand(2, 2, 3)
    got = restain(patches(2), both[0], both[1]).double().numpy()
    kept = (stains > 0).all(-1)  # scikit-image cuts at 0, we do not
    assert kept.mean() > 0.1
    np.testing.assert_allclose(got[kept], expected[kept], atol=0.6)


def test_no_change_of_stain_changes_nothing() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    restained = restain(images, torch.ones(1, 3), torch.zeros(1, 3))
    torch.testing.assert_close(restained, images, atol=1, rtol=0)


@pytest.mark.parametrize("jitter", [0.0, 0.05])
def test_the_same_generator_gives_the_same_picture(jitter: float) -> None:
    images = patches(16)
    first, second, other = (
        augment(images, draw_changes(len(images), torch.Generator().manual_seed(seed), jitter))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.dtype == torch.uint8


def test_light_jitter_is_light() -> None:
    images = patches(200, side=2)
    scale = 1 + 0.05 * (2 * torch.rand(200, 3) - 1)
    change = restain(images, scale, 0.05 * (2 * torch.rand(200, 3) - 1)).float() - images.float()
    assert 1 < change.abs().mean() < 12


class Calls(TorchDispatchMode):
    """Operations on a device, and values that the host had to be told."""

    names: list[str]

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        if any(tensor.is_meta for tensor in tensors):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_augmentation_on_a_device_never_asks_it_for_a_value() -> None:
    """On the meta device there are no values: what asks for one fails."""
    images = torch.empty(16, 8, 8, 3, dtype=torch.uint8, device="meta")
    with Calls() as calls:  # type: ignore[no-untyped-call]
        calls.names = []
        changed = augment(images, draw_changes(len(images), torch.Generator().manual_seed(0), 0.05))
    assert changed.shape == images.shape
    assert calls.names
    assert not [name for name in calls.names if "nonzero" in name or "local_scalar" in name]
