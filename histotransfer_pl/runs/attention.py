"""Attention in a store: which array is that of a run, and what its columns are."""

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.store.layout import attention_path
from histotransfer_pl.store.slide import StoredSlide

ATTENTION_COLUMNS = ("weight", "logit")
PATCH_COLUMN = "patch_{}"
"""One further column per class, where a patch classifier was trained (``beta`` above 0)."""


def attention_array(slide: StoredSlide, names: tuple[str, ...]) -> str | None:
    """Where a slide holds the attention of a run.

    Args:
        slide: The slide.
        names: What the run may be called there: its hash, or its folder in earlier releases.
    """
    paths = [attention_path(name) for name in names if name]
    return next((path for path in paths if slide.has(path)), None)


def read_attention(slide: StoredSlide, *names: str) -> NDArray[np.float64]:
    """Attention weight (N,) of each patch.

    Args:
        slide: The slide.
        names: What the run may be called in the store.

    Raises:
        StoreError: The run wrote no attention for this slide.
    """
    array = attention_array(slide, names) or attention_path(next(filter(None, reversed(names))))
    values = slide.read(array)
    weights = values if values.ndim == 1 else values[:, ATTENTION_COLUMNS.index("weight")]
    return np.asarray(weights, np.float64)
