"""Attention of a slide by the run that gave it, and what its columns are."""

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.layout import attention_path, decode_key, nearest
from histotransfer_pl.store.slide import StoredSlide

ATTENTION_COLUMNS = ("weight", "logit")
PATCH_COLUMN = "patch_{}"
"""One further column per class, where a patch classifier was trained (``beta`` above 0)."""
_CHECKPOINT = "checkpoint_sha256"
"""Attribute of attention that an older release stored under the run's folder."""


def attention_of(slide: StoredSlide, *names: str) -> str:
    """Path of the attention that a run gave to a slide."""
    given = list(filter(None, names))
    found: dict[str, str] = {}
    for name in given:
        if slide.has(path := attention_path(name)):
            return path
        found = found or _by_run(slide)
        if name in found:
            return found[name]
    raise StoreError(
        f"slide {slide.slide_id!r} has no attention of run {given[-1]!r}: "
        f"{nearest(given[-1], found)}; run `predict` of that run first"
    )


def has_attention_of(slide: StoredSlide, *names: str) -> bool:
    """Whether a run gave attention to a slide; arguments as of `attention_of`."""
    try:
        return bool(attention_of(slide, *names))
    except StoreError:
        return False


def attention_runs(slide: StoredSlide) -> list[str]:
    """Ids of the runs that have attention in a slide."""
    return list(_by_run(slide))


def read_attention(slide: StoredSlide, *names: str) -> NDArray[np.float64]:
    """Attention weight (N,) of each patch; arguments and errors as of `attention_of`."""
    values = slide.read(attention_of(slide, *names))
    weights = values if values.ndim == 1 else values[:, ATTENTION_COLUMNS.index("weight")]
    return np.asarray(weights, np.float64)


def _by_run(slide: StoredSlide) -> dict[str, str]:
    """Paths of the attention in a slide by the id of the run.

    The one converter of older stores: there the key is the run's folder, and the checkpoint's
    hash stands among the attributes.
    """
    return {
        str(slide.info(array).attributes.get(_CHECKPOINT, decode_key(array.partition("/")[2]))): (
            array
        )
        for array in slide.arrays()
        if array.startswith("attention/")
    }
