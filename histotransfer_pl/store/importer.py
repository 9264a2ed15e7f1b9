"""Plain arrays into a store, for bags that do not come from slides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.convert import convert
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import encode_key, feature_path


def import_arrays(
    location: str | Path,
    features: NDArray[Any],
    bag_ids: NDArray[Any],
    encoder: str,
    depth: str,
    *,
    dtype: DTypeLike = np.float32,
    attributes: Mapping[str, Any] | None = None,
) -> FeatureStore:
    """Store instances that are grouped in bags, such as MUSK or features made elsewhere.

    The store has no grid and its slides no coordinates; row i of a bag is its i-th instance in
    the order given. Bags that are there already and match are left as they are.

    Args:
        location: A local folder.
        features: One row per instance (N, D).
        bag_ids: The bag of each instance (N,); as text they are the slide ids. Instances of a
            bag need not lie together.
        encoder: The name under which the features are found again.
        depth: Their depth, likewise.
        dtype: The type to store.
        attributes: Where they come from; kept with every array.

    Raises:
        StoreError: Arrays that do not belong together, values that are not finite numbers or a
            name that cannot be stored (nothing is written then), or a bag that is there already
            with other values.
    """
    if features.ndim != 2 or bag_ids.shape != features.shape[:1]:
        raise StoreError(
            f"features of shape {features.shape} and bag ids of shape {bag_ids.shape}: expected "
            "(N, D) and (N,)"
        )
    if features.dtype.kind not in "biuf" or not len(features):
        raise StoreError(
            f"features of type {features.dtype} in {len(features)} rows: expected numbers, at "
            "least one row"
        )
    path = feature_path(encoder, depth)
    # Refused before there is a store: values that are not finite, and names no folder can bear.
    stored = convert(features, np.dtype(dtype), np.arange(len(features)), "the features")  # (N, D)
    ids, bag_of_row = np.unique(bag_ids.astype(str), return_inverse=True)  # (S,), (N,)
    for bag_id in ids:
        encode_key(str(bag_id))
    record = {**(attributes or {}), "encoder": encoder, "depth": depth}
    store = FeatureStore.open_or_create(location, None)
    by_bag = np.argsort(bag_of_row, kind="stable")  # (N,)
    rows_of_bags = np.split(by_bag, np.cumsum(np.bincount(bag_of_row))[:-1])
    with store.writing():
        for bag_id, rows in zip(ids, rows_of_bags, strict=True):
            slide = store.add_slide(str(bag_id), None, len(rows))
            wanted = stored[rows]  # (n, D)
            if not slide.matches(path, {**record, "dtype": np.dtype(dtype).name}):
                slide.write(path, wanted, record, dtype=dtype)
            elif not np.array_equal(slide.read(path), wanted):
                raise StoreError(
                    f"bag {slide.slide_id!r} is in {location} already with other values: import to "
                    "another store or under another encoder name"
                )
    return store
