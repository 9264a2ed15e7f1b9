"""Tiles laid out as slides."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histotransfer_pl.data.mosaic import lay_out_tiles
from histotransfer_pl.errors import CohortError, ConfigError
from histotransfer_pl.slides.reader import open_slide

SIDE = 64


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Six groups of class a, five of class b, two tiles each; the grey level names the group."""
    rows = []
    for number in range(11):
        name = "a" if number < 6 else "b"
        for tile in range(2):
            path = tmp_path / f"{number}_{tile}.png"
            Image.fromarray(np.full((SIDE, SIDE, 3), 20 * number, np.uint8)).save(path)
            part = "train" if number in (0, 6) else "test"
            rows.append((path.name, name, f"g{number}", part))
    table = tmp_path / "tiles.csv"
    pd.DataFrame(rows, columns=["path", "cls", "source", "split"]).to_csv(table, index=False)
    return table


def grey_levels(path: Path) -> set[int]:
    """The groups of a slide, by the grey level in the middle of its tiles."""
    reader = open_slide(path)
    width, height = reader.dimensions_level0
    assert (width, height) == (2 * SIDE, 2 * SIDE)
    corners = [(x, y) for x in (0, SIDE) for y in (0, SIDE)]
    levels = {
        round(reader.read_patch(x, y, SIDE, 1.0)[16:-16, 16:-16].mean() / 20) for x, y in corners
    }
    reader.close()
    return levels


def test_each_group_is_in_one_slide_of_its_class(tiles: Path, tmp_path: Path) -> None:
    folder = tmp_path / "slides_of_tiles"
    table = lay_out_tiles(tiles, folder, "cls", "source", groups_per_slide=2)

    cohort = pd.read_csv(table)
    assert cohort["label"].tolist() == ["a"] * 3 + ["b"] * 2  # the fifth group of b is left over
    assert cohort["patient_id"].is_unique
    groups = [grey_levels(folder / path) for path in cohort["path"]]
    assert all(len(found) == 2 for found in groups)
    assert len(set().union(*groups)) == 10
    for found, label in zip(groups, cohort["label"], strict=True):
        assert all((number < 6) == (label == "a") for number in found)


def test_only_the_wanted_tiles_are_used(tiles: Path, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    table = lay_out_tiles(tiles, folder, "cls", "source", where={"split": ["test"]})

    groups = set().union(*(grey_levels(folder / path) for path in pd.read_csv(table)["path"]))
    assert groups <= set(range(11)) - {0, 6}
    assert len(pd.read_csv(table)) == 4


def test_refusals_say_what_to_do(tiles: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no class 'c' in cls; its classes: a, b"):
        lay_out_tiles(tiles, tmp_path / "x", "cls", "source", classes=["a", "c"])
    with pytest.raises(CohortError, match="fewer than two classes fill a slide"):
        lay_out_tiles(tiles, tmp_path / "y", "cls", "source", groups_per_slide=6)
    with pytest.raises(CohortError, match="has tiles of 'test' and of another class"):
        lay_out_tiles(tiles, tmp_path / "z", "split", "cls")
    lay_out_tiles(tiles, tmp_path / "w", "cls", "source")
    with pytest.raises(CohortError, match="is there already"):
        lay_out_tiles(tiles, tmp_path / "w", "cls", "source")
