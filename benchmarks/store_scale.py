"""A store of very many slides: `python -m benchmarks.store_scale`."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.program import run
from benchmarks.result import Result, compare, seconds
from benchmarks.store_read import FEATURES, make_bags
from histotransfer_pl.data.join import join_cohort
from histotransfer_pl.data.splits import split_by_seed
from histotransfer_pl.store.checksum import seal
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import METADATA, encode_key
from histotransfer_pl.store.metadata import to_bytes


def measure(slides: int = 10_000, rounds: int = 7) -> list[Result]:
    """Opening a store, looking through it and joining a cohort, against one small read per slide.

    Args:
        slides: Slides of the store.
        rounds: Rounds.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, table = Path(folder) / "large.zarr", Path(folder) / "cohort.csv"
        make_many_slides(root, slides)
        write_cohort(root, table)
        return _measure(root, table, slides, rounds)


def _measure(root: Path, table: Path, slides: int, rounds: int) -> list[Result]:
    def listed() -> list[str]:
        return [name for name in os.listdir(root) if name != "zarr.json"]  # noqa: PTH208

    def plain(_: int) -> int:
        return sum(len((root / name / "zarr.json").read_bytes()) for name in listed())

    def open_and_list(_: int) -> int:
        return len(FeatureStore.open(root).slide_ids())

    def open_and_find(_: int) -> int:
        store = FeatureStore.open(root)
        return sum(store.slide(slide_id).has(FEATURES) for slide_id in store.slide_ids())

    def open_and_count(_: int) -> int:
        store = FeatureStore.open(root)
        return sum(store.slide(slide_id).n_patches for slide_id in store.slide_ids())

    def open_and_join(_: int) -> int:
        join = join_cohort(table, FeatureStore.open(root), [FEATURES], "label", strict=True)
        return len(join.labelled)

    rate: dict[str, Any] = {"amount": slides, "unit": "slides"}
    against = f"{slides} slides, vs os.listdir and one small read each"
    return [
        compare(f"open and list {against}", 2.0, open_and_list, plain, rounds, **rate),
        compare(f"open and find features of {against}", 2.0, open_and_find, plain, rounds, **rate),
        compare(
            f"open and read n_patches of {against}", 2.0, open_and_count, plain, rounds, **rate
        ),
        compare(
            f"open and join a cohort of {against}",
            2.0,
            open_and_join,
            plain,
            rounds,
            notes=_after_joining(root, table),
            **rate,
        ),
    ]


def _after_joining(root: Path, table: Path) -> str:
    """What follows once per run, for the record."""
    store = FeatureStore.open(root)
    join = join_cohort(table, store, [FEATURES], "label", strict=True)
    splitting = seconds(lambda: split_by_seed(join.labelled, 0, 5, 0))
    first = join.labelled["slide_id"].iloc[0]
    reading = seconds(lambda: store.slide(first).read(FEATURES))
    return f"then splitting {splitting * 1e3:.3g} ms, first bag {reading * 1e3:.2g} ms"


def write_cohort(root: Path, table: Path) -> None:
    """A cohort table of all slides, two a patient."""
    names = FeatureStore.open(root).slide_ids()
    patients = [f"p{i // 2}" for i in range(len(names))]
    labels = [i // 2 % 2 for i in range(len(names))]
    frame = pd.DataFrame({"slide_id": names, "patient_id": patients, "label": labels})
    frame.to_csv(table, index=False)


def make_many_slides(root: Path, slides: int) -> None:
    """One real slide of 64 patches, then copies of its metadata, without values."""
    store = make_bags(root, 64, 16, 1)
    template = root / encode_key(store.slide_ids()[0])
    nodes = ["", "features", str(Path(FEATURES).parent), FEATURES]
    documents = [json.loads((template / node / METADATA).read_text()) for node in nodes]
    for number in range(1, slides):
        slide_id = f"case {number // 4}/slide {number}"
        key = encode_key(slide_id)
        documents[0]["attributes"]["slide_id"] = slide_id
        for node, document in zip(nodes, documents, strict=True):
            (root / key / node).mkdir()
            content = to_bytes(seal(document, f"{key}/{node}".rstrip("/")))
            (root / key / node / METADATA).write_bytes(content)


if __name__ == "__main__":
    run("store_scale", measure, {"slides": 100, "rounds": 3})
