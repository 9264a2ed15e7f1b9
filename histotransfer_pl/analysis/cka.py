"""Centred kernel alignment: how alike two networks represent the same patches.

Linear and RBF CKA of Kornblith et al. (2019) and the unbiased HSIC_1 of Song et al. (2007). The
biased form calls unrelated features alike when there are not many more patches than features (two
independent Gaussians, 64 patches, 512 features: 0.889); the debiased one does not (0.016). Both are
sensitive to outliers and to a subset of patches that moves (Davari et al. 2023), so show them with
the number of patches and beside controls: a network with itself is 1, with a random one is low.

All functions need the two Gram matrices (n, n) in memory; for many patches there is
`histotransfer_pl.analysis.minibatch_cka.MinibatchCKA`.
"""

import torch
from torch import Tensor

from histotransfer_pl.errors import AnalysisError

# columns of a feature map taken at once: their centred copy stays in the cache (8 MB, 256 patches)
_COLUMNS = 8_192
_DEVICE_VALUES = 1 << 26
"""Values taken at once on a device, where each piece costs a few kernels and there is memory."""
NOT_FINITE = "features are not finite: look for NaN in the network or its input"


def linear_cka(x: Tensor, y: Tensor, *, debiased: bool = False) -> float:
    """Linear CKA of features of the same patches in the same order.

    Args:
        x: (n, ...) features or maps of one network; what follows the first axis is flattened.
        y: (n, ...) those of the other.
        debiased: Whether to use HSIC_1, which may come out slightly negative.

    Returns:
        1 for features equal up to rotation, shift and scale; near 0 for unrelated ones.

    Raises:
        AnalysisError: Different or too few patches, constant or non-finite features.
    """
    return cka_of_grams(linear_gram(x), linear_gram(y), debiased=debiased)


def rbf_cka(x: Tensor, y: Tensor, *, fraction: float = 0.5, debiased: bool = False) -> float:
    """CKA with a Gaussian kernel, whose width is a fraction of the median distance.

    Args:
        x: (n, ...) features of one network.
        y: (n, ...) those of the other.
        fraction: Width of the kernel in root median squared distances.
        debiased: Whether to use HSIC_1.

    Raises:
        AnalysisError: As `linear_cka`.
    """
    grams = rbf_gram(x, fraction=fraction), rbf_gram(y, fraction=fraction)
    return cka_of_grams(*grams, debiased=debiased)


def cka_of_grams(gram_x: Tensor, gram_y: Tensor, *, debiased: bool = False) -> float:
    """CKA of two Gram matrices (n, n); errors as `linear_cka`."""
    if gram_x.shape != gram_y.shape:
        raise AnalysisError(
            f"{len(gram_x)} patches on one side, {len(gram_y)} on the other: "
            "CKA compares the same patches in the same order"
        )
    centre = u_centred if debiased else _centred
    x, y = centre(gram_x).flatten(), centre(gram_y).flatten()  # (n * n,) each
    scale = (x @ x).sqrt() * (y @ y).sqrt()
    if not scale > 0:
        raise AnalysisError("features are constant over the patches: CKA is undefined for them")
    return float((x @ y) / scale)


def hsic1(gram_x: Tensor, gram_y: Tensor) -> float:
    """Unbiased HSIC_1 of two Gram matrices (n, n), n > 3 (Song 2007; Nguyen 2020, eq. 3)."""
    n = len(gram_x)
    return float((u_centred(gram_x) * u_centred(gram_y)).sum() / (n * (n - 3)))


def linear_gram(features: Tensor) -> Tensor:
    """Gram matrix (n, n) in float64 of centred features (n, ...).

    CKA does not see the centring, rounding does: features after a ReLU have a large common mean
    that would eat the digits of a float32 product. Products are made in the precision of the
    features (at least float32), in pieces, and added up in float64.

    Raises:
        AnalysisError: Features that are not finite.
    """
    gram = sum_gram(features)  # (n, n)
    if not torch.isfinite(gram).all():
        raise AnalysisError(NOT_FINITE)
    return gram


def sum_gram(features: Tensor) -> Tensor:
    """`linear_gram` without a look at the values, for which a program waits for its device."""
    rows = _as_rows(features)  # (n, D)
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)  # (n, n)
    with torch.autocast(rows.device.type, enabled=False):
        columns = (
            _COLUMNS if rows.device.type == "cpu" else max(_COLUMNS, _DEVICE_VALUES // len(rows))
        )
        for piece in torch.split(rows, columns, dim=1):
            wide = piece if piece.dtype == torch.float64 else piece.float()
            centred = wide - wide.mean(0)  # (n, columns)
            gram += centred @ centred.T
    return gram


def rbf_gram(features: Tensor, *, fraction: float = 0.5) -> Tensor:
    """Gaussian Gram matrix (n, n) of features (n, ...), in float64; errors as `linear_gram`."""
    gram = linear_gram(features)
    norms = gram.diagonal()  # (n,)
    squared = (norms[:, None] + norms - 2 * gram).clamp(min=0)  # (n, n)
    # quantile takes the mean of the middle two, as the definition does; it has a limit of size
    ordered = squared.flatten().sort().values  # (n * n,)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    if not middle > 0:
        raise AnalysisError("more than half of the patches have equal features: no median distance")
    return torch.exp(-squared / (2 * fraction**2 * middle))


def u_centred(gram: Tensor) -> Tensor:
    """Gram matrices (..., n, n) with zero diagonal and row sums: HSIC_1 is their scalar product.

    HSIC_1 of K and L is the sum over `u_centred(K) * u_centred(L)` divided by n (n - 3)
    (Szekely and Rizzo 2014), so L layers need L centrings and one matrix product.

    Raises:
        AnalysisError: Fewer than four patches.
    """
    n = gram.shape[-1]
    if n < 4:
        raise AnalysisError(f"{n} patches, but HSIC_1 needs at least 4: use larger batches")
    hollow = gram.double().clone()  # (..., n, n)
    hollow.diagonal(dim1=-2, dim2=-1).zero_()
    sums = hollow.sum(-2) / (n - 2)  # (..., n)
    hollow -= sums[..., :, None] + (sums - sums.sum(-1, keepdim=True) / (n - 1))[..., None, :]
    hollow.diagonal(dim1=-2, dim2=-1).zero_()
    return hollow


def _centred(gram: Tensor) -> Tensor:
    gram = gram.double()
    means = gram.mean(0)  # (n,)
    return gram - means[:, None] - means + means.mean()


def _as_rows(features: Tensor) -> Tensor:
    if features.ndim == 4 and features.is_contiguous(memory_format=torch.channels_last):
        features = features.permute(0, 2, 3, 1)  # the order of columns does not matter
    return features.detach().flatten(1)
