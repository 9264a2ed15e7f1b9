"""Labelled tiles laid out as small slides: a multiple-instance task from a set of tiles.

What such a slide is not: it is no section of one patient's tissue, all its tiles are of its class
(there is nothing for attention to find), and its sources are disjoint from those of other slides,
which says nothing of patients where the set does not name them. It serves to compare encoders.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histotransfer_pl.data.labelled_tiles import LabelledTiles, read_tiles
from histotransfer_pl.errors import CohortError, ConfigError
from histotransfer_pl.records.tables import write_table
from histotransfer_pl.slides.synthetic import write_pyramid

_GLASS = 255  # grey level of places without a tile


def lay_out_tiles(
    tiles: Path,
    folder: Path,
    label: str = "label",
    group: str = "group",
    classes: list[str] | None = None,
    where: dict[str, list[str]] | None = None,
    groups_per_slide: int = 2,
    tiles_per_row: int = 2,
    mpp: float = 1.0,
    seed: int = 0,
) -> Path:
    """Write slides whose tiles are of one class and of ``groups_per_slide`` groups.

    Each group is in one slide only, so a split by slide is a split by group. Groups that are left
    over at the end make no slide. Writes ``slides/<class>_<number>.tiff`` and last ``cohort.csv``
    (slide_id, path, patient_id, label); every slide is a patient of its own.

    Args:
        tiles: CSV table with ``path``, the class and the group of each tile.
        folder: Where to write; made if missing.
        label: Column of the class.
        group: Column of what must stay together: the patient or the larger tile it was cut from.
        classes: Classes to take, at least two; all when None.
        where: Take only tiles with one of these values in these columns, such as
            ``{split: [val, test]}``.
        groups_per_slide: Groups whose tiles make one slide.
        tiles_per_row: Tiles side by side.
        mpp: Micrometres per pixel to write into the slides.
        seed: Seed of the draw of groups.

    Returns:
        The path of ``cohort.csv``.

    Raises:
        ConfigError: A number below 1, or a class that the table does not have.
        CohortError: The folder holds a cohort, a group with two classes, or no class fills a slide.
    """
    if min(groups_per_slide, tiles_per_row) < 1 or mpp <= 0:
        raise ConfigError(
            f"groups_per_slide {groups_per_slide}, tiles_per_row {tiles_per_row}, mpp {mpp}: "
            "expected at least 1, 1 and above 0"
        )
    table = folder / "cohort.csv"
    if table.exists():
        raise CohortError(f"{table} is there already: give another folder or remove this one")
    found = read_tiles(tiles, label=label, group=group, where=where)
    wanted = found.classes if classes is None else list(classes)
    missing = sorted(set(wanted) - set(found.classes))
    if missing:
        raise ConfigError(
            f"{tiles} has no class {missing[0]!r} in {label}; its classes: "
            f"{', '.join(found.classes)}"
        )
    (folder / "slides").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for name in wanted:
        for number, members in enumerate(_draw(found, name, groups_per_slide, rng)):
            slide_id = f"{name}_{number:03d}"
            path = Path("slides") / f"{slide_id}.tiff"
            write_pyramid(folder / path, _lay_out(found, members, tiles_per_row), mpp)
            rows.append((slide_id, path.as_posix(), slide_id, name))
    cohort = pd.DataFrame(rows, columns=["slide_id", "path", "patient_id", "label"])
    if cohort["label"].nunique() < 2:
        raise CohortError(f"{tiles}: fewer than two classes fill a slide: take fewer groups each")
    write_table(table, cohort)
    return table


def _draw(
    tiles: LabelledTiles, name: str, groups_per_slide: int, rng: np.random.Generator
) -> list[list[int]]:
    """Rows of the tiles of each slide of a class."""
    own = tiles.labels == tiles.classes.index(name)  # (N,)
    groups = np.unique(tiles.groups[own])
    shared = sorted(set(groups.tolist()) & set(tiles.groups[~own].tolist()))
    if shared:
        raise CohortError(
            f"group {shared[0]!r} has tiles of {name!r} and of another class: a slide holds whole "
            "groups of one class"
        )
    order = rng.permutation(groups)
    slides = order[: len(order) // groups_per_slide * groups_per_slide]
    return [
        np.flatnonzero(np.isin(tiles.groups, members)).tolist()
        for members in slides.reshape(-1, groups_per_slide)
    ]


def _lay_out(tiles: LabelledTiles, rows: list[int], tiles_per_row: int) -> NDArray[np.uint8]:
    """The picture (h, w, 3) of some tiles, row by row."""
    (pixels,) = tiles.batches(len(rows), rows)  # (N, P, P, 3)
    height, width = pixels.shape[1:3]
    n_rows = math.ceil(len(rows) / tiles_per_row)
    picture = np.full((n_rows * height, tiles_per_row * width, 3), _GLASS, np.uint8)
    for place, tile in enumerate(pixels.numpy()):
        top, left = place // tiles_per_row * height, place % tiles_per_row * width
        picture[top : top + height, left : left + width] = tile
    return picture
