"""A process that writes its shard of tiny slides; it imports no more than that needs."""

import sys

import numpy as np

from histotransfer_pl.data.shards import shard_of
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path

FEATURES = feature_path("resnet18", "layer4")


def write_shard(location: str, index: str, count: str, slides: str, patches: str) -> None:
    """What a process does: the slides of its shard that are not there yet."""
    store = FeatureStore.open_or_create(location, {"patch_px": 224})
    names = [f"slide {number}" for number in range(int(slides))]
    with store.writing(f"shard {index}/{count}"):
        store.declare(FEATURES, {"weights_sha256": "0" * 64})
        for name in shard_of(names, [1] * len(names), int(index), int(count)):
            slide = store.add_slide(name, coords_of(name, int(patches)))
            if not slide.has(FEATURES):
                slide.write(FEATURES, values_of(name, int(patches)), {"encoder": "resnet18"})


def values_of(name: str, patches: int) -> np.ndarray:
    generator = np.random.default_rng(int(name.split()[1]))
    return generator.standard_normal((patches, 512), np.float32).astype(np.float16)  # (N, D)


def coords_of(name: str, patches: int) -> np.ndarray:
    return np.arange(2 * patches).reshape(-1, 2) + int(name.split()[1])  # (N, 2)


if __name__ == "__main__":
    write_shard(*sys.argv[1:])
