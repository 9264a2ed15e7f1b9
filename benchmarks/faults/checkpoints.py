"""Damaged, hostile and wrapped checkpoints, model files and weights.

What is loaded must be what was written, or be refused in one line; nothing may be executed.
"""

import io
import random
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from typing_extensions import override

from benchmarks.faults.apart import run_apart
from benchmarks.faults.cohort import fit_arguments, make_cohort
from benchmarks.faults.tally import Tally
from histotransfer_pl.cli import network  # noqa: F401 - imported once, not by every fork
from histotransfer_pl.cli.main import main
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.errors import HistoTransferError
from histotransfer_pl.runs.model_file import load_model

CASES = 400
Damage = Callable[[bytes, random.Random, Path], bytes]
"""From a sound file to a damaged one; what it executes leaves the path behind."""
_SAME, _OTHER, _REFUSED, _MANY_LINES = 0, 10, 11, 12
_BAG = np.linspace(-1, 1, 30, dtype=np.float32).reshape(5, 6)  # (N, D)


class Sound(NamedTuple):
    """A file, and how it is read: to an array that says all of it."""

    path: Path
    read: Callable[[Path], Any]


class Payload:
    """Unpickling it makes a file, as an attack would run a command."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.trace),))


def campaign(seed: int, cases: int) -> Tally:
    """Damage so many files and read them."""
    draw, counts = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        sounds = make_sound(Path(folder))
        truths = [sound.read(sound.path) for sound in sounds]
        for _ in range(cases):
            number = draw.randrange(len(sounds))
            counts[_try(sounds[number], truths[number], Path(folder), draw)] += 1
    return Tally("checkpoints", cases, counts["survived"], counts["lost"], counts["unexplained"])


def make_sound(folder: Path) -> list[Sound]:
    """A checkpoint of a run, a model file, and weights of an encoder."""
    make_cohort(folder)
    model, weights = folder / "model.safetensors", folder / "weights.pth"
    ended = run_apart(lambda: main(fit_arguments(folder)))
    if ended.code == 0:
        words = ["--run_dir", str(folder / "run"), "--out", str(model)]
        ended = run_apart(lambda: main(["package", *words]))
    if ended.code:
        raise RuntimeError(ended.errors)
    encoder = build_encoder(EncoderConfig("resnet18", weights="random", depths=["layer1"]))
    torch.save({"state_dict": encoder.network.state_dict(), "epoch": 3}, weights)
    last = folder / "run/checkpoints/best.ckpt"
    return [Sound(last, _predict), Sound(model, _predict), Sound(weights, _state)]


def _predict(path: Path) -> Any:
    model = load_model(path)
    return (*model.predict(_BAG)[:2], model.classes)


def _state(path: Path) -> Any:
    encoder = build_encoder(EncoderConfig("resnet18", weights=str(path), depths=["layer1"]))
    return tuple(value.numpy() for value in encoder.network.state_dict().values())


def _try(sound: Sound, truth: Any, folder: Path, draw: random.Random) -> str:
    trace = folder / "executed"
    path = folder / f"damaged{sound.path.suffix}"
    kind = draw.choice(DAMAGES)
    path.write_bytes(kind(sound.path.read_bytes(), draw, trace))
    ended = run_apart(partial(_read, sound, path, truth), cpu_s=30)
    state = {_SAME: "survived", _REFUSED: "survived", _OTHER: "lost"}.get(ended.code, "unexplained")
    if trace.exists():
        trace.unlink()
        state = "lost"
    if state != "survived":
        sys.stderr.write(f"{state}, {kind.__name__} of {sound.path.name}: {ended}\n")
    return state


def _read(sound: Sound, path: Path, truth: Any) -> int:
    try:
        found = sound.read(path)
    except HistoTransferError as error:
        return _MANY_LINES if "\n" in str(error) else _REFUSED
    same = len(found) == len(truth) and all(map(np.array_equal, found, truth))
    return _SAME if same else _OTHER


def flip_bits(content: bytes, draw: random.Random, _: Path) -> bytes:
    data = bytearray(content)
    ends = draw.choice([len(data), min(len(data), 2000)])  # as often near the header
    for place in (draw.randrange(ends) for _ in range(draw.randint(1, 3))):
        data[place] ^= 1 << draw.randrange(8)
    return bytes(data)


def flip_at_the_end(content: bytes, draw: random.Random, _: Path) -> bytes:
    data = bytearray(content)
    data[-1 - draw.randrange(min(len(data), 1500))] ^= 1 << draw.randrange(8)
    return bytes(data)


def cut(content: bytes, draw: random.Random, _: Path) -> bytes:
    return content[: draw.choice([0, 1, 8, 9, len(content) - 1, draw.randrange(len(content))])]


def pad(content: bytes, draw: random.Random, _: Path) -> bytes:
    more = draw.randbytes(draw.randint(1, 50))
    return draw.choice([content + more, more + content, bytes(len(more)) + content])


def zero(content: bytes, draw: random.Random, _: Path) -> bytes:
    start = draw.randrange(len(content))
    length = min(draw.choice([16, 512, 4096]), len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def other_file(_: bytes, draw: random.Random, __: Path) -> bytes:
    header = (10 ** draw.randint(1, 15)).to_bytes(8, "little") + b'{"a": 1}'
    some = draw.randbytes(300)
    other: list[bytes] = [
        *(b"", b"\0" * 100, b"PK\x03\x04", b"{}", b"<html>", b"version https://git-lfs"),
        *(b"\x80\x02}.", header, some),
    ]
    return draw.choice(other)


def hostile(content: bytes, draw: random.Random, trace: Path) -> bytes:
    """Code among the values: in the zip form, the old form, a class that Lightning imports."""
    evil = Payload(str(trace))
    holders: list[Any] = [
        *({"state_dict": {"a": evil}}, {"state_dict": {"a": torch.ones(2)}, "args": evil}, evil),
        {"state_dict": {}, "hyper_parameters": {"_class_path": "antigravity.X", "x": evil}},
    ]
    buffer = io.BytesIO()
    torch.save(draw.choice(holders), buffer, _use_new_zipfile_serialization=draw.random() < 0.5)
    return buffer.getvalue()


def other_pickle(content: bytes, draw: random.Random, trace: Path) -> bytes:
    """The tensors as they are, but another pickle that names them, under a right checksum."""
    buffer = io.BytesIO()
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return hostile(content, draw, trace)
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                data = flip_bits(data, draw, trace)
                command = f"cos\nsystem\n(S'touch {trace}'\ntR.".encode()
                data = draw.choice([data, data[: draw.randrange(len(data))], command])
            new.writestr(name, data)
    return buffer.getvalue()


DAMAGES: tuple[Damage, ...] = (
    *(flip_bits, flip_bits, flip_bits, flip_at_the_end, cut, pad, zero),
    *(other_file, hostile, other_pickle),
)
