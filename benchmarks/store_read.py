"""Reading bags, rows and large stores: `python -m benchmarks.store_read`."""

import json
import tempfile
from pathlib import Path

import numpy as np
import xxhash

from benchmarks.program import run
from benchmarks.result import Result, compare
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import METADATA, encode_key, feature_path

FEATURES = feature_path("resnet18", "layer4")
PROVENANCE = {
    "encoder": "resnet18",
    "depth": "layer4",
    "weights_sha256": "0" * 64,
    "normalisation": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "precision": "bf16",
    "versions": {"torch": "2.11.0", "timm": "1.0.31", "histotransfer_pl": "0.1.0"},
}
ROUNDS = {200: 600, 2_000: 120, 20_000: 24}
BAGS = {200: 24, 2_000: 6, 20_000: 2}


def measure(
    sizes: tuple[int, ...] = (200, 2_000, 20_000),
    width: int = 1024,
    sampled_rows: int = 512,
    rounds_factor: float = 1.0,
) -> list[Result]:
    """Reading a bag against `np.fromfile`, and random rows against the whole bag.

    Args:
        sizes: Rows of the bags.
        width: Features of a row.
        sampled_rows: Rows drawn from the largest bag.
        rounds_factor: Times the usual number of rounds.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        return [
            *measure_bags(root / "bags.zarr", sizes, width, rounds_factor),
            measure_rows(root / "rows.zarr", max(sizes), width, sampled_rows, rounds_factor),
        ]


def measure_bags(root: Path, sizes: tuple[int, ...], width: int, factor: float) -> list[Result]:
    results = []
    for rows in sizes:
        bags = BAGS.get(rows, 4)
        store = make_bags(root, rows, width, bags)
        rounds = max(4, round(ROUNDS.get(rows, 20) * factor))
        fresh = [FeatureStore.open(root) for _ in range(rounds)]
        ids = [f"{rows}/{number % bags}" for number in range(rounds)]
        files = [str(root / encode_key(slide_id) / FEATURES / "c/0/0") for slide_id in ids]

        def plain(number: int, files: list[str] = files) -> object:
            return np.fromfile(files[number], np.float16).reshape(-1, width)

        def both(number: int, files: list[str] = files) -> object:
            """The least that reads and checks a bag of which nothing is known yet."""
            metadata = json.loads((Path(files[number]).parents[2] / METADATA).read_bytes())
            sealed = xxhash.xxh3_64_hexdigest(json.dumps(metadata, sort_keys=True).encode())
            values = np.fromfile(files[number], np.float16).reshape(-1, width)
            return sealed, xxhash.xxh3_64_hexdigest(values.data), values

        def later(number: int, store: FeatureStore = store, ids: list[str] = ids) -> object:
            return store.slide(ids[number]).read(FEATURES)

        def first(number: int, fresh: list[FeatureStore] = fresh, ids: list[str] = ids) -> object:
            return fresh[number].slide(ids[number]).read(FEATURES)

        name, size = f"bag read, {rows} rows, vs np.fromfile", rows * width * 2 / 1e6
        results.append(compare(name, 1.15, later, plain, rounds, amount=size, unit="MB"))
        name = f"first read of a bag of {rows} rows, vs both files read and their checksums"
        results.append(compare(name, 1.15, first, both, rounds, amount=size, unit="MB"))
    return results


def measure_rows(root: Path, rows: int, width: int, sampled: int, factor: float) -> Result:
    store = make_bags(root, rows, width, 1)
    slide = store.slide(f"{rows}/0")
    generator = np.random.default_rng(0)
    rounds = max(4, round(40 * factor))
    samples = [generator.choice(rows, sampled, replace=False) for _ in range(rounds)]
    return compare(
        f"{sampled} random rows of a {rows}-row bag vs the whole bag",
        0.25,
        lambda number: slide.read(FEATURES, samples[number]),
        lambda _: slide.read(FEATURES),
        rounds,
    )


def make_bags(root: Path, rows: int, width: int, bags: int) -> FeatureStore:
    store = FeatureStore.open_or_create(root, {"patch_px": 224, "mpp": 0.5})
    generator = np.random.default_rng(rows)
    with store.writing():
        for bag in range(bags):
            values = generator.standard_normal((rows, width), np.float32)
            slide = store.add_slide(f"{rows}/{bag}", None, rows)
            slide.write(FEATURES, values, PROVENANCE, dtype=np.float16)
    return store


if __name__ == "__main__":
    run("store_read", measure, {"sizes": [200, 2000], "width": 64, "rounds_factor": 0.1})
