"""Attention of a slide by the run that gave it."""

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.layout import attention_path, decode_key, nearest
from histotransfer_pl.store.slide import StoredSlide

_CHECKPOINT = "checkpoint_sha256"
"""Attribute of attention that an older release stored under the run's folder."""


def attention_of(slide: StoredSlide, run_id: str) -> str:
    """Path of the attention that a run gave to a slide.

    Raises:
        StoreError: There is none.
    """
    path = attention_path(run_id)
    if slide.has(path):
        return path
    found = _by_run(slide)
    if run_id not in found:
        raise StoreError(
            f"slide {slide.slide_id!r} has no attention of run {run_id!r}: {nearest(run_id, found)}"
            "; run `predict` of that run first"
        )
    return found[run_id]


def attention_runs(slide: StoredSlide) -> list[str]:
    """Ids of the runs that have attention in a slide."""
    return list(_by_run(slide))


def _by_run(slide: StoredSlide) -> dict[str, str]:
    """Paths of the attention in a slide by the id of the run.

    The one converter of older stores: there the key is the run's folder, and the checkpoint's
    hash stands among the attributes.
    """
    arrays = [array for array in slide.arrays() if array.startswith("attention/")]
    return {
        str(slide.info(array).attributes.get(_CHECKPOINT, decode_key(array.partition("/")[2]))): (
            array
        )
        for array in arrays
    }
