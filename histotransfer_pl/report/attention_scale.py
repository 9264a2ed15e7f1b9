"""The one scale of attention: the same colours in QuPath, pictures, the report and W&B.

Attention is shown in multiples of uniform attention: 1 is what each patch would get if all
patches of the slide weighed the same. Attention is a softmax, so the scale is logarithmic; it is
the same for every slide, so that two maps can be compared and a flat map looks flat. One times
uniform is a pale grey; below it colours go to a whitish blue, above it to a dark red. Each half
is a straight line in CIE L*a*b*, so that equal ratios look equally far apart, and more attention
is always darker, so that a print in grey says the same.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray
from skimage.color import lab2rgb

TOP_CLASS = "Top attention"
TOP_COLOUR = (0, 0, 0)
"""Outline of the patches with top attention, and their class in QuPath."""
_TOP_SHARE = 0.05
_STEPS = 128
_BELOW, _UNIFORM, _ABOVE = (95.0, -5.0, -7.0), (86.0, 0.0, 0.0), (36.0, 50.0, 44.0)


def _attention_colours() -> ListedColormap:
    """257 colours, the middle one for uniform attention."""
    share = np.linspace(0, 1, _STEPS + 1)[:, None]  # (steps + 1, 1)
    below = (1 - share) * np.array(_BELOW) + share * np.array(_UNIFORM)  # (steps + 1, 3) L*a*b*
    above = (1 - share) * np.array(_UNIFORM) + share * np.array(_ABOVE)  # (steps + 1, 3)
    lab = np.concatenate([below, above[1:]])  # (2 steps + 1, 3)
    rgb = lab2rgb(lab[None])[0]  # (2 steps + 1, 3)
    return ListedColormap([tuple(row) for row in rgb.tolist()], name="attention")


ATTENTION_COLOURS = _attention_colours()


@dataclass(frozen=True)
class AttentionScale:
    """From relative attention to colours.

    Attributes:
        limit: Colours run from ``1 / limit`` to ``limit`` times uniform; what is beyond has the
            colour of the end.
    """

    limit: float = 16.0

    def position(self, relative: NDArray[np.floating]) -> NDArray[np.float64]:
        """Place (N,) on the scale: 0 at ``1 / limit``, 0.5 at uniform, 1 at ``limit``."""
        logs = np.log(np.maximum(relative, 1e-12)) / np.log(self.limit)  # (N,)
        return np.asarray(np.clip((logs + 1) / 2, 0, 1), np.float64)

    def colours(self, relative: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Colours (N, 3) of relative attention (N,), uint8 RGB."""
        return np.round(ATTENTION_COLOURS(self.position(relative))[:, :3] * 255).astype(np.uint8)

    def ticks(self) -> list[tuple[float, str]]:
        """Places on the scale with their labels, from the lower to the upper end.

        Example:
            >>> AttentionScale(limit=16).ticks()
            [(0.0, '≤ 1/16×'), (0.25, '1/4×'), (0.5, 'uniform'), (0.75, '4×'), (1.0, '≥ 16×')]
        """
        half = np.sqrt(self.limit)
        labels = (f"≤ 1/{self.limit:g}×", f"1/{half:g}×", "uniform", f"{half:g}×")
        return list(zip((0.0, 0.25, 0.5, 0.75, 1.0), (*labels, f"≥ {self.limit:g}×"), strict=True))


def relative_attention(weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """Attention (N,) in multiples of what each patch would get if all weighed the same."""
    weights = weights.astype(np.float64)
    total = weights.sum()
    return weights * len(weights) / total if total > 0 else np.ones_like(weights)


def top_attention(relative: NDArray[np.float64], most: int) -> NDArray[np.bool_]:
    """Which patches (N,) have top attention.

    Those above uniform, of them the highest, but at most ``most`` and at most 5 % of the slide's
    patches (one patch where that is less than one). Of equal patches at the border none counts,
    so a flat map has no top.

    Example:
        >>> top_attention(np.array([0.2, 3.0, 0.4, 0.4]), most=8)
        array([False,  True, False, False])
    """
    n_most = min(most, max(1, int(_TOP_SHARE * len(relative))))
    if n_most >= len(relative):
        return np.asarray(relative > 1 + 1e-9)
    if n_most <= 0:
        return np.zeros(len(relative), np.bool_)
    next_lower = np.partition(relative, -n_most - 1)[-n_most - 1]
    return np.asarray((relative > 1 + 1e-9) & (relative > next_lower))
