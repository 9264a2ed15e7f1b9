"""Adding a slide: its group and its coordinates appear together."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import StoreError, StoreMismatchError
from histotransfer_pl.store.checksum import seal
from histotransfer_pl.store.failure import write_failure
from histotransfer_pl.store.files import WritableFiles
from histotransfer_pl.store.layout import CONTENTS, COORDS, METADATA, encode_key
from histotransfer_pl.store.locations import record_path
from histotransfer_pl.store.metadata import (
    Json,
    differences,
    group_document,
    plain_json,
    plan_layout,
    to_bytes,
)
from histotransfer_pl.store.slide import MAX_CHUNK_BYTES, StoredSlide
from histotransfer_pl.store.writer import ArrayWriter

if TYPE_CHECKING:
    from histotransfer_pl.store.feature_store import FeatureStore

_MAY_DIFFER = ("path", "fingerprint.mtime_ns")
"""Of a slide that was moved or copied; its content is in the rest of the fingerprint."""


def add_slide(
    store: "FeatureStore",
    slide_id: str,
    coords: NDArray[np.integer[Any]] | None,
    n_patches: int | None,
    attributes: Mapping[str, Any],
) -> StoredSlide:
    """What ``FeatureStore.add_slide`` does."""
    files = store.files_for_writing()
    name = f"slide {slide_id!r}"
    count = _count_patches(name, coords, n_patches)
    own = {"slide_id": slide_id, "n_patches": count}
    record = plain_json({**own, **attributes, **own}, name)
    if "path" in record:
        record["path"] = record_path(str(record["path"]), files.location)
    slide = StoredSlide(store, slide_id)
    if slide_id not in store:
        try:
            if _write_slide(files, slide_id, record, coords):
                return slide
        except OSError as error:
            if encode_key(slide_id) in files.folders("") and slide_id not in store:
                raise StoreError(
                    f"{name}: its folder {encode_key(slide_id)} in {files.location} has no "
                    "zarr.json, so it is damaged or not a slide: look at it and delete it"
                ) from error
            raise write_failure(error, name, files.location) from error
    _check_same(slide, record, coords)
    return slide


def _count_patches(
    name: str, coords: NDArray[np.integer[Any]] | None, n_patches: int | None
) -> int:
    if coords is None:
        if n_patches is None or n_patches < 0:
            raise StoreError(f"{name}: give coordinates, or the number of its patches")
        return n_patches
    if coords.ndim != 2 or coords.shape[1] != 2:
        raise StoreError(f"{name}: coordinates of shape {coords.shape}, expected (N, 2)")
    if n_patches not in (None, len(coords)):
        raise StoreError(f"{name}: {len(coords)} coordinates for {n_patches} patches")
    return len(coords)


def _check_same(slide: StoredSlide, record: Json, coords: NDArray[np.integer[Any]] | None) -> None:
    wrong = [differences(slide.attributes, record, ignore=_MAY_DIFFER)]
    if slide.has(COORDS) != (coords is not None):
        wrong.append("coordinates: only one of the two has any")
    elif coords is not None and not np.array_equal(slide.coords(), coords):
        wrong.append("coordinates: the patches lie elsewhere")
    if any(wrong):
        raise StoreMismatchError(
            f"slide {slide.slide_id!r} is in the store already and differs "
            f"({'; '.join(filter(None, wrong))}): if the slide was replaced, delete its folder in "
            "the store; otherwise give it another id or use another store"
        )


def _write_slide(
    files: WritableFiles, slide_id: str, record: Json, coords: NDArray[np.integer[Any]] | None
) -> bool:
    """Write group and coordinates; False where another process has just done so."""
    key = encode_key(slide_id)
    staged = files.stage()
    try:
        contents = [] if coords is None else [COORDS]
        document = seal(group_document({**record, CONTENTS: contents}), key)
        (staged / METADATA).write_bytes(to_bytes(document))
        if coords is not None:
            layout = plan_layout(coords.shape, np.dtype(np.int32), MAX_CHUNK_BYTES)
            writer = ArrayWriter(
                f"slide {slide_id!r}, {COORDS}",
                files.stage(),
                layout,
                {},
                lambda document: seal(document, f"{key}/{COORDS}"),
                lambda done: _move(done, staged / COORDS),
                files.location,
            )
            with writer:
                writer.assign(slice(None), coords)
                writer.commit()
        return files.publish(staged, key, "")
    finally:
        shutil.rmtree(staged, ignore_errors=True)  # gone when it was published


def _move(done: Path, place: Path) -> None:
    done.rename(place)
