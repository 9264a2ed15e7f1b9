"""CKA of every layer of one network with every layer of another, batch by batch."""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from histotransfer_pl.analysis.cka import NOT_FINITE, sum_gram, u_centred
from histotransfer_pl.errors import AnalysisError

_log = logging.getLogger(__name__)

Features = Mapping[str, Tensor]
"""Features (n, ...) of the same n patches at each layer of a network."""


class MinibatchCKA(Metric):
    """Unbiased minibatch linear CKA of L1 x L2 layers (Nguyen et al. 2020).

    HSIC_1 is summed over the batches, then the ratio is taken once, so that more batches mean
    less noise and not more bias. Batches of equal size count alike, as in the paper; a shorter
    one counts by its patches. States are sums: ranks of a DDP run add up exactly.

    Args:
        layers_x: Names of the layers of one network, in order of depth.
        layers_y: Names of the layers of the other.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    hsic_xy: Tensor
    hsic_xx: Tensor
    hsic_yy: Tensor
    patches: Tensor
    patches_left_out: Tensor

    def __init__(self, layers_x: Sequence[str], layers_y: Sequence[str]) -> None:
        super().__init__()
        if not layers_x or not layers_y:
            raise AnalysisError("no layers to compare: name at least one of each network")
        self.layers_x = list(layers_x)
        self.layers_y = list(layers_y)
        self.widths: dict[str, tuple[int, ...]] = {}
        n_x, n_y = len(self.layers_x), len(self.layers_y)
        for name, shape in {"hsic_xy": (n_x, n_y), "hsic_xx": (n_x,), "hsic_yy": (n_y,)}.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("patches", "patches_left_out"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    @override
    def update(self, x: Features, y: Features) -> None:
        """Add a batch.

        A batch of fewer than four patches, as the last one may be, has no HSIC_1: it is left
        out and counted in `patches_left_out`.

        Args:
            x: Layer name to features (n, ...) of one network; the same object as `y` to compare
                a network with itself at half the cost.
            y: The same for the other network, same patches in the same order.

        Raises:
            AnalysisError: A layer is missing, has another number of patches, or is not finite.
        """
        n = self._check(x, y)
        if n < 4:
            self.patches_left_out += n
            return
        grams_x = _u_centred_grams(x, self.layers_x)  # (L1, n * n)
        same = x is y and self.layers_x == self.layers_y
        grams_y = grams_x if same else _u_centred_grams(y, self.layers_y)  # (L2, n * n)
        weight = 1 / (n - 3)  # n patches times 1 / (n (n - 3))
        self.hsic_xy += weight * (grams_x @ grams_y.T)  # (L1, L2)
        self.hsic_xx += weight * grams_x.square().sum(1)  # (L1,)
        self.hsic_yy += weight * grams_y.square().sum(1)  # (L2,)
        self.patches += n

    @override
    def compute(self) -> Tensor:
        """The matrix (L1, L2); NaN in the row or column of a layer that is constant.

        Raises:
            AnalysisError: No batch of at least four patches was seen.
        """
        if not self.patches:
            raise AnalysisError("no batch of at least 4 patches was seen: CKA needs more patches")
        for names, hsic in ((self.layers_x, self.hsic_xx), (self.layers_y, self.hsic_yy)):
            dead = [name for name, own in zip(names, hsic, strict=True) if not own > 0]
            if dead:
                _log.warning("constant over all patches, so without CKA: %s", ", ".join(dead))
        scale = self.hsic_xx[:, None].sqrt() * self.hsic_yy.sqrt()  # (L1, L2)
        return torch.where(scale > 0, self.hsic_xy / scale, torch.nan)  # (L1, L2)

    def _check(self, x: Features, y: Features) -> int:
        counts: dict[str, int] = {}
        for side, features, layers in (("x", x, self.layers_x), ("y", y, self.layers_y)):
            missing = [name for name in layers if name not in features]
            if missing:
                raise AnalysisError(
                    f"no features of {side} at {', '.join(missing)}; there are "
                    f"{', '.join(features) or 'none'}: name the layers the encoder gives"
                )
            counts |= {f"{side}.{name}": len(features[name]) for name in layers}
            self.widths |= {
                f"{side}.{name}": tuple(map(int, features[name].shape[1:])) for name in layers
            }
        if len(set(counts.values())) != 1:
            raise AnalysisError(f"layers with different numbers of patches: {counts}")
        return next(iter(counts.values()))


def _u_centred_grams(features: Features, layers: Sequence[str]) -> Tensor:
    """All layers at once: on a GPU it is the number of steps and of waits that costs."""
    grams = torch.stack([sum_gram(features[name]) for name in layers])  # (L, n, n)
    finite = grams.isfinite().flatten(1).all(1).tolist()
    if not all(finite):
        raise AnalysisError(f"layer {layers[finite.index(False)]}: {NOT_FINITE}")
    return u_centred(grams).flatten(1)  # (L, n * n)
