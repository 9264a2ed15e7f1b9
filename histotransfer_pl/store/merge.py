"""Joining stores that were written apart, by shards on machines without a common disk."""

from collections.abc import Iterable
from pathlib import Path

from histotransfer_pl.errors import StoreError, StoreMismatchError
from histotransfer_pl.store.checksum import CHECKSUM, SEAL
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import COORDS, encode_key
from histotransfer_pl.store.slide import StoredSlide
from histotransfer_pl.store.verify import Problem, verify_slide


def merge_stores(
    sources: Iterable[FeatureStore], target: str | Path, *, reference: bool = False
) -> list[Problem]:
    """Put the slides of stores of one grid into one store.

    Every slide is read and compared with its checksums before it is taken; a damaged one is left
    out and reported. What the target has already must be equal.

    Args:
        sources: The stores.
        target: A folder or URL; made if missing.
        reference: Link the slides of local stores instead of copying them.

    Raises:
        StoreMismatchError: Grids that differ, or one slide with two contents.
    """
    problems: list[Problem] = []
    for source in sources:
        joined = FeatureStore.open_or_create(target, source.grid)
        with joined.writing():
            for slide_id in source.slide_ids():
                slide = source.slide(slide_id)
                found = verify_slide(slide, source.files, source.version)
                if found:
                    problems += found
                elif reference:
                    _link(source, joined, slide_id)
                else:
                    _copy(slide, joined)
    return problems


def _link(source: FeatureStore, joined: FeatureStore, slide_id: str) -> None:
    key = encode_key(slide_id)
    place, original = joined.path / key, (source.path / key).resolve()
    if place.exists() and place.resolve() != original:
        raise StoreMismatchError(
            f"slide {slide_id!r} is in {joined.location} already, from {place.resolve()}: merge by "
            "copy, or leave one of the two out"
        )
    if not place.is_symlink():
        place.symlink_to(original, target_is_directory=True)


def _copy(slide: StoredSlide, joined: FeatureStore) -> None:
    coords = slide.coords() if slide.has(COORDS) else None
    taken = joined.add_slide(slide.slide_id, coords, slide.n_patches, slide.attributes)
    for array in slide.arrays():
        info = slide.info(array)
        values = slide.read(array)  # (N, ...)
        if taken.has(array):
            if taken.info(array).attributes[CHECKSUM] != info.attributes[CHECKSUM]:
                raise StoreMismatchError(
                    f"slide {slide.slide_id!r}, {array} has other values in {joined.location}: "
                    "leave one of the two stores out"
                )
            continue
        own = {k: v for k, v in info.attributes.items() if k not in (CHECKSUM, SEAL)}
        taken.write(array, values, own, dtype=info.dtype)
        if (taken.read(array, check=False) != values).any():
            raise StoreError(f"slide {slide.slide_id!r}, {array} was not written as it was read")
