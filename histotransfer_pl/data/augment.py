"""Augmentation of H&E patches: the symmetries of the square, and jitter of the stains."""

import torch
from skimage.color.colorconv import hed_from_rgb, rgb_from_hed
from torch import Tensor

_DARKEST = 1e-6
"""Least transmitted light, as in scikit-image's colour deconvolution."""


def augment(patches: Tensor, generator: torch.Generator, stain_jitter: float) -> Tensor:
    """Turn, mirror and restain each patch by itself.

    Args:
        patches: (N, P, P, 3) uint8, on any device.
        generator: Source of what is drawn; on the CPU, so that every device draws the same.
        stain_jitter: Largest relative change of each stain, and its largest shift in optical
            density (Tellez et al. 2018 call 0.05 light and 0.2 strong); 0 keeps the colours.

    Returns:
        (N, P, P, 3) uint8.
    """
    turned = turn(patches, torch.randint(8, (len(patches),), generator=generator))
    if not stain_jitter:
        return turned
    span = torch.rand(2, len(patches), 3, generator=generator) * 2 - 1  # (2, N, 3) from -1 to 1
    scale, shift = (span * stain_jitter).to(patches.device)  # (N, 3) each
    return restain(turned, 1 + scale, shift)


def turn(patches: Tensor, which: Tensor) -> Tensor:
    """Apply to each patch (N, P, P, 3) one of the 8 symmetries of the square, ``which`` (N,).

    ``which`` modulo 4 counts quarter turns; from 4 up the patch is mirrored first.
    """
    turned = torch.empty_like(patches)
    for symmetry in torch.unique(which).tolist():
        # Numbers and not a mask, whose count the device would have to tell the host.
        own = (which == symmetry).nonzero().flatten().to(patches.device)  # (n,)
        images = patches[own]  # (n, P, P, 3)
        mirrored = images.flip(2) if symmetry >= 4 else images
        turned[own] = mirrored.rot90(symmetry % 4, (1, 2))
    return turned


def restain(patches: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift haematoxylin, eosin and DAB of each patch.

    Ruifrok & Johnston (2001) with scikit-image's matrices, but without its cut at 0, so that
    scale 1 and shift 0 change nothing.

    Args:
        patches: (N, P, P, 3) uint8.
        scale: (N, 3) factor of each stain.
        shift: (N, 3) added to each stain, in optical density (natural logarithm).
    """
    to_hed = torch.as_tensor(hed_from_rgb, dtype=torch.float32, device=patches.device)  # (3, 3)
    to_rgb = torch.as_tensor(rgb_from_hed, dtype=torch.float32, device=patches.device)  # (3, 3)
    light = (patches.float() / 255).clamp_min(_DARKEST)  # (N, P, P, 3)
    stains = -light.log() @ to_hed  # (N, P, P, 3)
    stains = stains * scale[:, None, None] + shift[:, None, None]
    light = (-stains @ to_rgb).exp()  # (N, P, P, 3)
    return (light * 255).round().clamp(0, 255).to(torch.uint8)
