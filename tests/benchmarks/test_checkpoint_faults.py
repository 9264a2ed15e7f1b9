"""The campaign of damaged checkpoints: what it finds is mended, and it would find it."""

import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.faults import checkpoints
from benchmarks.faults.checkpoints import Sound, make_sound
from histotransfer_pl.encoders.weights import read_checkpoint
from histotransfer_pl.errors import ConfigError, WeightsError
from histotransfer_pl.runs.model_file import load_model


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Sound]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        return make_sound(tmp_path_factory.mktemp("sound"))


@pytest.mark.parametrize("place", ["the classes", "the weights"])
def test_a_flipped_bit_of_a_model_file_is_found(
    sounds: list[Sound], tmp_path: Path, place: str
) -> None:
    """A safetensors file has no checksum of its own."""
    path = tmp_path / "m.safetensors"
    content = bytearray(sounds[1].path.read_bytes())
    content[content.index(b"neg") if place == "the classes" else -3] ^= 2
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        load_model(path)


def test_a_flipped_bit_of_weights_is_found(sounds: list[Sound], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    content = bytearray(sounds[2].path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.pth is damaged \(.*data/\d+\): copy it again"):
        read_checkpoint(path)


def test_a_torch_file_of_another_ending_is_read_for_what_it_is(
    sounds: list[Sound], tmp_path: Path
) -> None:
    """torch.load believes the ending."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(sounds[2].path.read_bytes())
    assert set(read_checkpoint(path)) == {"state_dict", "epoch"}
    torch.save({"x": np.float64(1)}, path)
    with pytest.raises(ConfigError, match="no checkpoint"):
        load_model(path)


@pytest.mark.parametrize(
    "content", [b"\x80\x02r\x01", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R."]
)
@pytest.mark.parametrize("read", [read_checkpoint, load_model])
def test_whatever_torch_raises_is_one_line(
    read: Callable[[Path], object], content: bytes, tmp_path: Path
) -> None:
    """A pickle that ends within a number, and one that calls with too few values."""
    path = tmp_path / "w.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", content)
        archive.writestr("w/version", "3\n")
    with pytest.raises((ConfigError, WeightsError), match=r"w\.ckpt is (damaged|no file of plain)"):
        read(path)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("kind", [checkpoints.hostile, checkpoints.other_pickle])
def test_nothing_is_executed(
    sounds: list[Sound], tmp_path: Path, number: int, kind: checkpoints.Damage
) -> None:
    draw, truth = random.Random(number), sounds[number].read(sounds[number].path)
    for _ in range(4):
        path = tmp_path / f"hostile{sounds[number].path.suffix}"
        path.write_bytes(kind(sounds[number].path.read_bytes(), draw, tmp_path / "trace"))
        assert checkpoints._read(sounds[number], path, truth) in (0, checkpoints._REFUSED)
    assert not (tmp_path / "trace").exists()


def test_what_is_executed_or_read_wrongly_is_counted(
    sounds: list[Sound], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsafe(path: Path) -> tuple[object, ...]:
        try:
            return (torch.load(path, weights_only=False),)
        except Exception:  # noqa: BLE001 - any other file
            return ()

    monkeypatch.setattr(checkpoints, "DAMAGES", (checkpoints.hostile,))
    blind = Sound(sounds[0].path, unsafe)
    state = checkpoints._try(blind, ("other",), tmp_path, random.Random(0))
    assert state == "lost"
