"""Features of other programs, and bags of plain arrays, with a cohort table -> a store."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from histotransfer_pl.data.arrays import name_bags, read_arrays
from histotransfer_pl.data.cohort import read_cohort, slides_from_cohort
from histotransfer_pl.errors import CohortError, ConfigError, SlideError, shorten
from histotransfer_pl.records.done import Done
from histotransfer_pl.records.tables import table_text, write_table
from histotransfer_pl.slides.files import fingerprint
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.store.exchange import find_features, import_features
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.importer import import_arrays


def import_features_of(
    features: Path, store: Path, cohort: Path, slides: Path | None, encoder: str, depth: str
) -> Done:
    """Import the features of CLAM, TRIDENT or STAMP that a folder holds."""
    table, found = read_cohort(cohort), find_features(features)
    wanted = {name: found[name] for name in table["slide_id"] if name in found}
    if not wanted:
        raise CohortError(
            f"none of the {len(table)} slides of {cohort} has a file in {features}, which holds "
            f"{shorten(sorted(found))}: a slide_id must be the name of a file without its ending"
        )
    opened = FeatureStore.open_or_create(store, None)
    with opened.writing():
        facts = _facts_of_slides(table, cohort, slides)
        outcomes = import_features(opened, wanted, encoder, depth, facts)
    failures = {o.slide_id: o.problem for o in outcomes if o.problem}
    lines = [f"failed: {slide_id}: {problem}" for slide_id, problem in failures.items()]
    absent = [name for name in table["slide_id"] if name not in found]
    if absent:
        lines.append(f"no file for {len(absent)} slides of the table: {shorten(absent)}")
    patches = sum(outcome.n_patches for outcome in outcomes)
    done = len(outcomes) - len(failures)
    lines.append(f"{done} slides, {patches} patches in {store}; {len(failures)} failed")
    return Done(lines, [store], {"slides": done, "patches": patches}, failures)


def import_arrays_of(arrays: Path, store: Path, cohort: Path, encoder: str, depth: str) -> Done:
    """Import bags of plain arrays, and write their cohort table.

    Raises:
        ConfigError: Another table stands there.
        CohortError: Labels that do not fit the bags.
    """
    features, bags, labels = read_arrays(arrays)
    if cohort.is_dir():
        raise ConfigError(f"cohort {cohort} is a folder: give the name of the table to write")
    ids, names = name_bags(bags)
    if len(labels) != len(ids):
        raise CohortError(f"{arrays}: {len(labels)} labels y for {len(ids)} bags")
    table = pd.DataFrame({"slide_id": ids, "patient_id": ids, "label": labels})
    _refuse_other_table(cohort, table)
    import_arrays(store, features, names, encoder, depth)
    cohort.parent.mkdir(parents=True, exist_ok=True)
    write_table(cohort, table)
    shape = f"{len(ids)} bags, {len(features)} instances of {features.shape[1]} features"
    counts = {"bags": len(ids), "instances": len(features)}
    return Done([f"{shape} in {store}", f"labels in {cohort}"], [store, cohort], counts)


def _facts_of_slides(
    table: pd.DataFrame, cohort: Path, slides: Path | None
) -> Callable[[str], Mapping[str, Any]]:
    """What the table and the slide's own file say: path and mpp."""
    given = pd.to_numeric(table["mpp"], errors="coerce") if "mpp" in table else None
    mpps = {} if given is None else dict(zip(table["slide_id"], given, strict=True))
    known = "path" in table or slides is not None
    entries = {e.slide_id: e for e in slides_from_cohort(cohort, slides)} if known else {}

    def facts(slide_id: str) -> dict[str, Any]:
        entry, mpp = entries.get(slide_id), mpps.get(slide_id)
        found: dict[str, Any] = {} if mpp is None or pd.isna(mpp) else {"slide_mpp": float(mpp)}
        if entry is None or not entry.path.exists():
            return found
        try:
            with open_slide(entry.path, found.get("slide_mpp")) as reader:
                return {
                    "path": str(entry.path),
                    "fingerprint": fingerprint(entry.path),
                    "slide_mpp": reader.mpp,
                    "dimensions_level0": list(reader.dimensions_level0),
                }
        except SlideError:
            return found  # features are of use without their slide

    return facts


def _refuse_other_table(cohort: Path, table: pd.DataFrame) -> None:
    """Elsewhere ``--cohort`` names a table that is read, so one of the user's may stand there."""
    if cohort.is_file() and cohort.read_text(encoding="utf-8") != table_text(table):
        raise ConfigError(
            f"{cohort} exists and holds something else: with --arrays the table is written, so "
            "give a new name"
        )
