"""The campaign of damaged slides runs, is seeded, and sees what it looks for."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.faults import slides
from benchmarks.faults.slide_mutations import Sound, mutate, paint_slides, write
from benchmarks.faults.tally import Tally
from histotransfer_pl.errors import SlideError
from histotransfer_pl.slides.openslide_reader import OpenSlideReader
from histotransfer_pl.slides.reader import DirectReader


@pytest.fixture(scope="module")
def sounds() -> list[Sound]:
    return paint_slides()


def test_one_batch_of_damaged_slides() -> None:
    assert slides.campaign(seed=3, cases=slides.BATCH) == Tally(
        "slides", slides.BATCH, slides.BATCH, 0, 0
    )


def test_damage_is_drawn_by_seed(sounds: list[Sound]) -> None:
    drawn = [
        [mutate(sounds[number % len(sounds)], rng) for number in range(50)]
        for rng in (np.random.default_rng(seed) for seed in (0, 0, 1))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    changed = [
        data != sounds[number % len(sounds)].data for number, (_, data) in enumerate(drawn[0])
    ]
    assert sum(changed) > 40


def test_sound_slides_survive_and_are_decoded_here(sounds: list[Sound], tmp_path: Path) -> None:
    for number, sound in enumerate(sounds):
        path = write(tmp_path, number, sound, sound.data)
        assert slides.read(path) == ("survived", "")
        reader = DirectReader(path)
        reader.read_patch(128, 128, 64, 0.5)
        assert reader._equal == ({} if "deflate" in sound.name else {0: True})


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (TypeError("odd"), "unexplained"),
        (SlideError("damaged"), "survived"),
        (MemoryError("too much"), "unexplained"),
    ],
)
def test_what_a_slide_may_raise(
    sounds: list[Sound],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    state: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    target = OpenSlideReader if isinstance(error, MemoryError) else slides
    name = "_thumbnail" if isinstance(error, MemoryError) else "open_slide"
    monkeypatch.setattr(target, name, fail)
    found, reason = slides.read(write(tmp_path, 0, sounds[0], sounds[0].data))
    assert found == state
    assert str(error) in reason


def test_other_pixels_are_lost_ones(
    sounds: list[Sound], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = DirectReader.read_patch

    def other(self: DirectReader, x: int, y: int, px: int, mpp: float) -> NDArray[np.uint8]:
        return plain(self, x, y, px, mpp) ^ np.uint8(x == 76)

    monkeypatch.setattr(DirectReader, "read_patch", other)
    state, reason = slides.read(write(tmp_path, 0, sounds[0], sounds[0].data))
    assert (state, reason) == ("lost", "other pixels at 76, 0")


def test_a_slide_that_ends_its_process_is_named_and_the_others_are_read(
    sounds: list[Sound], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [write(tmp_path, number, sounds[0], sounds[0].data).name for number in range(3)]
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/sh\nshift 4\n"
        "for name; do [ $name = 00002_jpeg_ycbcr.tif ] && kill -ABRT $$\n"
        'printf "$name\\tsurvived\\t\\n"; done\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    results = slides._read_apart(tmp_path, names)
    assert [results[name][0] for name in names] == ["survived", "survived", "unexplained"]
    assert results[names[2]][1] == "the process ended with -6"
