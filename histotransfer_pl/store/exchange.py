"""A folder of feature files of another program into a store, slide by slide."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histotransfer_pl.errors import StoreError
from histotransfer_pl.store.convert import convert
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.foreign import SUFFIXES, ForeignFeatures, read_foreign
from histotransfer_pl.store.layout import feature_path


@dataclass(frozen=True)
class ImportedSlide:
    """What became of one slide.

    Attributes:
        slide_id: The slide.
        n_patches: Its patches; 0 if it failed.
        problem: Why it was left out; empty if it is in the store.
    """

    slide_id: str
    n_patches: int = 0
    problem: str = ""


def find_features(folder: Path) -> dict[str, Path]:
    """Feature files of a folder and the folders below, by their stem, which is the slide id.

    CLAM writes each slide twice, in ``h5_files`` and ``pt_files``; the HDF5 file has coordinates
    and is taken.
    """
    if not folder.is_dir():
        raise StoreError(f"no folder {folder}: give the folder of the .h5 or .pt files")
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
        other = found.setdefault(path.stem, path)
        if other is path:
            continue
        if (other.suffix == ".pt") == (path.suffix == ".pt"):
            raise StoreError(
                f"{other} and {path} would both be the slide {path.stem!r}: import one folder of "
                "features at a time"
            )
        found[path.stem] = other if path.suffix == ".pt" else path
    if not found:
        raise StoreError(f"no .h5 or .pt file in {folder}")
    return found


def import_features(
    store: FeatureStore,
    files: Mapping[str, Path],
    encoder: str,
    depth: str,
    facts: Callable[[str], Mapping[str, Any]],
) -> list[ImportedSlide]:
    """Write features of other programs into an open store; a file that fails stops nothing.

    Args:
        store: A store without a grid, open for writing.
        files: Slide id to file.
        encoder: Name of the features in the store.
        depth: Name of their depth.
        facts: What is known of a slide beside its file: ``path``, ``slide_mpp``.
    """
    outcomes = []
    for slide_id, path in files.items():
        try:
            found = read_foreign(path)
            outcomes.append(_write_slide(store, slide_id, found, encoder, depth, facts(slide_id)))
        except StoreError as error:
            outcomes.append(ImportedSlide(slide_id, problem=str(error)))
    return outcomes


def _write_slide(
    store: FeatureStore,
    slide_id: str,
    found: ForeignFeatures,
    encoder: str,
    depth: str,
    known: Mapping[str, Any],
) -> ImportedSlide:
    attributes = {**known, "imported": found.record}
    mpp = known.get("slide_mpp") or found.slide_mpp
    coords = found.coords_level0(mpp)
    if mpp is not None:
        attributes["slide_mpp"] = mpp
    side = found.patch_size_level0(mpp)
    if side is not None:
        attributes["patch_size_level0"] = side
    n = len(found.features)
    rows = np.arange(n)
    stored = convert(found.features, found.features.dtype, rows, f"slide {slide_id!r}")  # (N, D)
    slide = store.add_slide(slide_id, coords, n, attributes)
    array = feature_path(encoder, depth)
    record = {"encoder": encoder, "depth": depth}
    if not slide.matches(array, {**record, "dtype": stored.dtype.name}):
        slide.write(array, stored, record)
    elif not np.array_equal(slide.read(array), stored):
        raise StoreError(
            f"slide {slide_id!r} has other features of this name in {store.location}: import under "
            "another --encoder, or into another store"
        )
    return ImportedSlide(slide_id, n)
