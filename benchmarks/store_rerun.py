"""An extraction that finds everything done: `python -m benchmarks.store_rerun`."""

import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.program import run
from benchmarks.result import Result, rounds_in_time, seconds
from histotransfer_pl.data.cohort import SlideEntry
from histotransfer_pl.data.tile import TileJob
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.slides.files import fingerprint
from histotransfer_pl.store.checksum import seal
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import METADATA, encode_key, feature_path
from histotransfer_pl.store.metadata import to_bytes

FEATURES = feature_path("resnet18", "layer4")
_FACTS = {"weights_sha256": "0" * 64}


def measure(slides: int = 10_000, rounds: int = 3) -> list[Result]:
    """Looking at a complete store, as a run does when nothing is left to do.

    Args:
        slides: Slides of the store.
        rounds: How often it is looked at.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made = seconds(lambda: _complete(root, slides))
        entries = [SlideEntry(str(n), root / "slide.svs", None) for n in range(slides)]
        times = []
        for _ in rounds_in_time(rounds):
            start = time.process_time()
            store = FeatureStore.open(root / "complete.zarr")
            job = TileJob(store, GridSettings())
            for entry in entries:
                if job.run(entry).state != "skipped":
                    raise RuntimeError(f"{entry.slide_id} was not taken for complete")
                store.slide(entry.slide_id).matches(FEATURES, _FACTS)
            times.append((time.process_time() - start) / slides * 1e3)
        name = f"looking at a complete store of {slides} slides, CPU ms per slide"
        return [
            Result(
                name, min(times), 1.0, "ms",
                notes=f"the least of {len(times)} rounds; the store was made in {made:.0f} s",
            )
        ]  # fmt: skip


def _complete(root: Path, slides: int) -> None:
    """A slide that is written, and copies of its folder under other names."""
    path = root / "slide.svs"
    path.write_bytes(b"slide")
    store = FeatureStore.open_or_create(root / "complete.zarr", GridSettings().for_store())
    facts = {"path": str(path), "fingerprint": fingerprint(path), "slide_mpp": 0.5}
    with store.writing():
        first = store.add_slide("0", np.zeros((1, 2), np.int32), attributes=facts)
        first.write(FEATURES, np.zeros((1, 8), np.float16), _FACTS)
    template = root / "complete.zarr" / encode_key("0")
    nodes = {
        str(path.parent.relative_to(template)): json.loads(path.read_text())
        for path in template.rglob(METADATA)
    }
    for number in range(1, slides):
        key = encode_key(str(number))
        shutil.copytree(template, template.parent / key)
        nodes["."]["attributes"]["slide_id"] = str(number)
        for node, document in nodes.items():
            content = to_bytes(seal(document, f"{key}/{node}".removesuffix("/.")))
            (template.parent / key / node / METADATA).write_bytes(content)


if __name__ == "__main__":
    run("store_rerun", measure, {"slides": 50, "rounds": 2})
