"""Reading bags, rows and large stores: `python -m benchmarks.store_read`."""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.result import Result, compare
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import encode_key, feature_path

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
    sizes: Sequence[int] = (200, 2_000, 20_000),
    width: int = 1024,
    sampled_rows: int = 512,
    slides: int = 10_000,
    rounds_factor: float = 1.0,
) -> list[Result]:
    """All ratios of store reading; sizes are arguments so that a quick run is possible."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        results = [
            *measure_bags(root / "bags.zarr", sizes, width, rounds_factor),
            measure_rows(root / "rows.zarr", max(sizes), width, sampled_rows, rounds_factor),
        ]
        if slides:
            results += measure_scale(root / "large.zarr", slides, rounds_factor)
    return results


def measure_bags(root: Path, sizes: Sequence[int], width: int, factor: float) -> list[Result]:
    results = []
    for rows in sizes:
        bags = BAGS.get(rows, 4)
        store = _make_bags(root, rows, width, bags)
        rounds = max(4, round(ROUNDS.get(rows, 20) * factor))
        fresh = [FeatureStore.open(root) for _ in range(rounds)]
        ids = [f"{rows}/{number % bags}" for number in range(rounds)]
        files = [str(root / encode_key(slide_id) / FEATURES / "c/0/0") for slide_id in ids]

        def plain(number: int, files: list[str] = files) -> object:
            return np.fromfile(files[number], np.float16).reshape(-1, width)

        def later(number: int, store: FeatureStore = store, ids: list[str] = ids) -> object:
            return store.slide(ids[number]).read(FEATURES)

        def first(number: int, fresh: list[FeatureStore] = fresh, ids: list[str] = ids) -> object:
            return fresh[number].slide(ids[number]).read(FEATURES)

        name = f"bag read, {rows} rows, vs np.fromfile"
        results.append(compare(name, 1.15, later, plain, rounds))
        results.append(compare(f"{name}, first epoch", 1.15, first, plain, rounds))
    return results


def measure_rows(root: Path, rows: int, width: int, sampled: int, factor: float) -> Result:
    store = _make_bags(root, rows, width, 1)
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


def measure_scale(root: Path, slides: int, factor: float) -> list[Result]:
    _make_many_slides(root, slides)
    rounds = max(3, round(7 * factor))

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

    against = f"{slides} slides, vs os.listdir and one small read each"
    return [
        compare(f"open and list {against}", 2.0, open_and_list, plain, rounds),
        compare(f"open and find features of {against}", 2.0, open_and_find, plain, rounds),
        compare(f"open and read n_patches of {against}", 2.0, open_and_count, plain, rounds),
    ]


def _make_bags(root: Path, rows: int, width: int, bags: int) -> FeatureStore:
    store = FeatureStore.open_or_create(root, {"patch_px": 224, "mpp": 0.5})
    generator = np.random.default_rng(rows)
    with store.writing():
        for bag in range(bags):
            values = generator.standard_normal((rows, width), np.float32)
            slide = store.add_slide(f"{rows}/{bag}", None, rows)
            slide.write(FEATURES, values, PROVENANCE, dtype=np.float16)
    return store


def _make_many_slides(root: Path, slides: int) -> None:
    """One real slide, then copies without values that share the metadata of its features."""
    store = _make_bags(root, 64, 16, 1)
    template = root / encode_key(store.slide_ids()[0])
    array = template / FEATURES
    nodes = [path.relative_to(template) for path in reversed([array, *array.parents][:3])]
    nodes += [node / "zarr.json" for node in nodes]
    group = json.loads((template / "zarr.json").read_text())
    for number in range(1, slides):
        slide_id = f"case {number // 4}/slide {number}"
        copy = root / encode_key(slide_id)
        copy.mkdir()
        for node in nodes:
            if (template / node).is_dir():
                (copy / node).mkdir()
            else:
                (copy / node).hardlink_to(template / node)
        group["attributes"]["slide_id"] = slide_id
        (copy / "zarr.json").write_text(json.dumps(group))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 2_000, 20_000])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--slides", type=int, default=10_000, help="0 leaves this part out")
    parser.add_argument("--rounds-factor", type=float, default=1.0)
    args = parser.parse_args()
    for result in measure(
        args.sizes, args.width, slides=args.slides, rounds_factor=args.rounds_factor
    ):
        print(result)


if __name__ == "__main__":
    main()
