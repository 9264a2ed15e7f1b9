"""Augmentation of H&E patches: the symmetries of the square, and jitter of the stains."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from skimage.color.colorconv import hed_from_rgb, rgb_from_hed
from torch import Tensor

_DARKEST = 1e-6
"""Least transmitted light, as in scikit-image's colour deconvolution."""


class Changes(NamedTuple):
    """What was drawn for each of N patches."""

    symmetries: Tensor  # (N,), see `turn`
    stains: Tensor  # (2, N, 3), change of scale and shift of each stain; (2, 0, 3) for none


def draw_changes(n: int, generator: torch.Generator, stain_jitter: float) -> Changes:
    """Draw for n patches.

    Args:
        n: Patches.
        generator: Source of what is drawn; on the CPU, so that every device draws the same.
        stain_jitter: Largest relative change of each stain, and its largest shift in optical
            density (Tellez et al. 2018 call 0.05 light and 0.2 strong); 0 keeps the colours.
    """
    symmetries = torch.randint(8, (n,), generator=generator)  # (N,)
    if not stain_jitter:
        return Changes(symmetries, torch.empty(2, 0, 3))
    span = torch.rand(2, n, 3, generator=generator) * 2 - 1  # (2, N, 3) from -1 to 1
    return Changes(symmetries, span * stain_jitter)


def join_changes(parts: Sequence[Changes]) -> Changes:
    """The changes of several lots of patches, one behind the other."""
    symmetries, stains = zip(*parts, strict=True)
    return Changes(torch.cat(symmetries), torch.cat(stains, dim=1))


def augment(patches: Tensor, changes: Changes) -> Tensor:
    """Turn, mirror and restain each patch (N, P, P, 3) uint8, on any device, by itself."""
    turned = turn(patches, changes.symmetries)
    if not changes.stains.shape[1]:
        return turned
    scale, shift = _send(changes.stains, patches.device)  # (N, 3) each
    return restain(turned, 1 + scale, shift)


def turn(patches: Tensor, which: Tensor) -> Tensor:
    """Apply to each patch (N, P, P, 3) one of the 8 symmetries of the square, ``which`` (N,).

    ``which`` modulo 4 counts quarter turns; from 4 up the patch is mirrored first. All of it is
    done to all patches: to pick those that need it, the host would wait for the device.
    """
    quarters = which % 4  # (N,)
    upended = quarters >= 2
    mirrored = ((quarters == 1) | (quarters == 2)) != (which >= 4)
    choices = _send(torch.stack([mirrored, upended, quarters % 2 == 1]), patches.device)  # (3, N)
    mirrored, upended, transposed = choices[:, :, None, None, None]  # (N, 1, 1, 1) each
    patches = torch.where(mirrored, patches.flip(2), patches)
    patches = torch.where(upended, patches.flip(1), patches)
    return torch.where(transposed, patches.transpose(1, 2), patches)


def restain(patches: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift haematoxylin, eosin and DAB of each patch.

    Ruifrok & Johnston (2001) with scikit-image's matrices, but without its cut at 0, so that
    scale 1 and shift 0 change nothing.

    Args:
        patches: (N, P, P, 3) uint8.
        scale: (N, 3) factor of each stain.
        shift: (N, 3) added to each stain, in optical density (natural logarithm).
    """
    to_hed, to_rgb = _stain_matrices(patches.device)  # (3, 3) each
    light = (patches.float() / 255).clamp_min(_DARKEST)  # (N, P, P, 3)
    stains = -light.log() @ to_hed  # (N, P, P, 3)
    stains = stains * scale[:, None, None] + shift[:, None, None]
    light = (-stains @ to_rgb).exp()  # (N, P, P, 3)
    return (light * 255).round().clamp(0, 255).to(torch.uint8)


@functools.cache
def _stain_matrices(device: torch.device) -> tuple[Tensor, Tensor]:
    """From light to stains and back, (3, 3) each; sent to a device once."""
    to_hed, to_rgb = (torch.as_tensor(m, dtype=torch.float32) for m in (hed_from_rgb, rgb_from_hed))
    return to_hed.to(device), to_rgb.to(device)


def _send(values: Tensor, device: torch.device) -> Tensor:
    """Copy to a device without a wait for what it computes."""
    on_host = values.pin_memory() if device.type == "cuda" else values
    return on_host.to(device, non_blocking=True)
