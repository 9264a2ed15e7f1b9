"""Faults of stores: killed writers, and damage of every kind.

A kill must leave whole arrays only. Damage must be named by ``verify`` (or refused at opening),
never be read as features, and be gone after a repair and another extraction.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.tally import Tally
from histotransfer_pl.errors import HistoTransferError
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import encode_key

DEPTHS = ("features/net/layer1", "features/net/layer2")
SLIDES = {"a": 17, "case 2/b.svs": 40, "c": 5}
_WRITER = "import sys; from benchmarks.faults import store; store.write_for_ever(sys.argv[1])"


CASES = 600
"""A sixth of them are kills."""


def campaign(seed: int, cases: int) -> Tally:
    """Kill writers and damage stores so many times."""
    counts: Counter[str] = Counter()
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(cases // 6):
            counts[_kill(Path(folder) / f"kill{number}", draw)] += 1
        sound = Path(folder) / "sound.zarr"
        extract(sound)
        for _ in range(cases - cases // 6):
            counts[_damage(sound, Path(folder) / "damaged.zarr", draw)] += 1
    return Tally(
        "store", sum(counts.values()), counts["survived"], counts["lost"], counts["unexplained"]
    )


def values_of(slide_id: str, array: str) -> np.ndarray[Any, np.dtype[np.float16]]:
    """What an array of a slide holds."""
    generator = np.random.default_rng(len(slide_id) * 10 + len(array))
    return generator.standard_normal((SLIDES[slide_id], 6)).astype(np.float16)  # (N, 6)


def extract(root: Path) -> None:
    """Write what is missing, as the extraction does."""
    store = FeatureStore.open_or_create(root, {"patch_px": 224, "mpp": 0.5})
    with store.writing():
        for slide_id, n_patches in SLIDES.items():
            coords = np.arange(2 * n_patches).reshape(-1, 2)
            slide = store.add_slide(slide_id, coords, attributes={"mpp": 0.25})
            for array in DEPTHS:
                if not slide.has(array):
                    slide.write(array, values_of(slide_id, array), {"encoder": "net"})


def write_for_ever(root: str) -> None:
    """Slide after slide, in pieces, until the process is killed."""
    store = FeatureStore.open_or_create(root, None)
    with store.writing():
        for number in range(10**6):
            slide = store.add_slide(f"slide {number}", np.full((300, 2), number))
            with slide.writer(DEPTHS[0], (300, 64), "float16", {}) as writer:
                for start in range(0, 300, 50):
                    rows = np.full((50, 64), number % 1000 + 1)
                    writer.assign(slice(start, start + 50), rows)
                writer.commit()
            if number == 0:
                sys.stdout.write("begun\n")
                sys.stdout.flush()


def _kill(root: Path, draw: random.Random) -> str:
    command = [sys.executable, "-c", _WRITER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        if process.stdout is None or process.stdout.readline() != b"begun\n":
            return "unexplained"
        time.sleep(draw.uniform(0.0, 0.4))
        process.kill()
    try:
        store = FeatureStore.open(root)
        with store.writing():
            if store.verify():
                return "lost"
        for slide_id in store.slide_ids():
            number, slide = int(slide_id.split()[1]), store.slide(slide_id)
            arrays = {array: slide.read(array) for array in slide.arrays()}
            if not (slide.coords() == number).all():
                return "lost"
            if not all((v == number % 1000 + 1).all() for v in arrays.values()):
                return "lost"
    except Exception:  # noqa: BLE001 - this is what is counted
        return "unexplained"
    return "survived"


def _damage(sound: Path, root: Path, draw: random.Random) -> str:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(sound, root)
    kind = draw.choice(DAMAGES)
    kind(root, draw)
    try:
        try:
            store = FeatureStore.open(root)
        except HistoTransferError:
            return "survived"  # the root is damaged and says so
        if not _reads_truly(store):
            return _lost(kind, "other values were read")
        if not store.verify():
            return _lost(kind, "verify found nothing")
        store.verify(repair=True)
        extract(root)
        again = FeatureStore.open(root)
        left = again.verify()
        if again.slide_ids() != sorted(SLIDES) or left or not _reads_truly(again, strictly=True):
            return _lost(kind, f"not made again: {again.slide_ids()}, {[str(p) for p in left]}")
        return "survived"
    except Exception as error:  # noqa: BLE001 - this is what is counted
        sys.stderr.write(f"{kind.__name__}: {error!r}\n")
        return "unexplained"


def _lost(kind: Callable[..., None], what: str) -> str:
    sys.stderr.write(f"lost, {kind.__name__}: {what}\n")
    return "lost"


def _reads_truly(store: FeatureStore, *, strictly: bool = False) -> bool:
    """Whether a bag is right or refused; ``strictly``: right."""
    for slide_id in SLIDES:
        for array in DEPTHS:
            try:
                if not np.array_equal(
                    store.slide(slide_id).read(array), values_of(slide_id, array)
                ):
                    return False
            except HistoTransferError:
                if strictly:
                    return False
    return True


def _file(root: Path, draw: random.Random) -> Path:
    return draw.choice(sorted(path for path in root.rglob("*") if path.is_file()))


def _array(root: Path, draw: random.Random) -> Path:
    return root / encode_key(draw.choice(list(SLIDES))) / draw.choice(DEPTHS)


def flip_a_bit(root: Path, draw: random.Random) -> None:
    path = _file(root, draw)
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def zero_a_chunk(root: Path, draw: random.Random) -> None:
    path = _array(root, draw) / "c/0/0"
    path.write_bytes(bytes(path.stat().st_size))


def cut_a_file(root: Path, draw: random.Random) -> None:
    path = _file(root, draw)
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def remove_a_file(root: Path, draw: random.Random) -> None:
    _file(root, draw).unlink()


def remove_a_folder(root: Path, draw: random.Random) -> None:
    array = _array(root, draw)
    slide = root / array.relative_to(root).parts[0]
    shutil.rmtree(draw.choice([array, array.parent, slide / "features", slide / "coords"]))


def rename_a_folder(root: Path, draw: random.Random) -> None:
    array = _array(root, draw)
    place = draw.choice([array, array.parent])
    place.rename(place.with_name("other"))


def swap_slides(root: Path, draw: random.Random) -> None:
    one, other = (root / encode_key(slide_id) for slide_id in draw.sample(list(SLIDES), 2))
    _swap(one, other)


def swap_arrays(root: Path, draw: random.Random) -> None:
    one = _array(root, draw)
    _swap(one, one.with_name("layer1" if one.name == "layer2" else "layer2"))


def _swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def put_a_pipe(root: Path, draw: random.Random) -> None:
    array = _array(root, draw)  # not the root: there is nothing to open then
    path = draw.choice([array / "c/0/0", array / "zarr.json", array.parents[2] / "zarr.json"])
    path.unlink()
    os.mkfifo(path)


def change_a_value(root: Path, draw: random.Random) -> None:
    """Another number or word anywhere in the metadata of a slide or array."""
    array = _array(root, draw)
    path = draw.choice([array / "zarr.json", array.parents[2] / "zarr.json"])
    document = json.loads(path.read_text())
    key = draw.choice([*document, *(f"attributes.{name}" for name in document["attributes"])])
    holder, name = document, key
    if key.startswith("attributes."):
        holder, name = document["attributes"], key.removeprefix("attributes.")
    if name in ("codecs", "chunk_grid"):  # other tools may change how values lie in files
        name = "shape"
    others = ["x", -1, 10**12, None, [], {}, [[]], 0.5, True]
    holder[name] = draw.choice([value for value in others if value != holder[name]])
    path.write_text(json.dumps(document))


def change_the_type(root: Path, draw: random.Random) -> None:
    path = _array(root, draw) / "zarr.json"
    document = json.loads(path.read_text())
    document["data_type"] = draw.choice(["int16", "uint16", "float32", "bfloat16"])
    path.write_text(json.dumps(document))


def other_rows(root: Path, draw: random.Random) -> None:
    """The array of another slide, with its other number of rows."""
    array = _array(root, draw)
    others = [key for key in map(encode_key, SLIDES) if key != array.relative_to(root).parts[0]]
    shutil.rmtree(array)
    shutil.copytree(root / draw.choice(others) / "features/net" / array.name, array)


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (
    *(flip_a_bit, flip_a_bit, flip_a_bit, zero_a_chunk, cut_a_file, remove_a_file),
    *(remove_a_folder, rename_a_folder, swap_slides, swap_arrays, put_a_pipe, change_a_value),
    *(change_a_value, change_the_type, other_rows),
)
