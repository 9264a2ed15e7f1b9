"""Attention in a store: which array is that of a run, and what its columns are."""

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.attention import attention_of
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
    for name in filter(None, names):
        try:
            return attention_of(slide, name)
        except StoreError:
            continue  # the next name may be that of an earlier release
    return None


def read_attention(slide: StoredSlide, *names: str) -> NDArray[np.float64]:
    """Attention weight (N,) of each patch.

    Args:
        slide: The slide.
        names: What the run may be called in the store.

    Raises:
        StoreError: The run wrote no attention for this slide.
    """
    found = attention_array(slide, names)
    values = slide.read(found or attention_of(slide, next(filter(None, reversed(names)))))
    weights = values if values.ndim == 1 else values[:, ATTENTION_COLUMNS.index("weight")]
    return np.asarray(weights, np.float64)
