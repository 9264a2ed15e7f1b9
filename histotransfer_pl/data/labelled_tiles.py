"""Labelled tiles, from image files or from places in slides."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from histotransfer_pl.data.cohort import read_table, require_columns, slides_from_folder
from histotransfer_pl.errors import CohortError, ConfigError, SlideError, shorten
from histotransfer_pl.outcomes.words import sort_classes
from histotransfer_pl.slides.limits import slide_errors
from histotransfer_pl.slides.reader import SlideReader, open_slide


@dataclass(frozen=True, eq=False)
class LabelledTiles:
    """Tiles with their classes and the groups that stay on one side of a split.

    Attributes:
        table: One row per tile: ``path``, or ``slide_id``, ``x``, ``y``; sorted by place.
        labels: (N,) index of each tile's class.
        classes: Names of the classes.
        groups: (N,) group of each tile.
        folder: Folder of the images or the slides.
        patch_px: Side of a tile of a slide, in pixels at ``mpp``.
        mpp: Micrometres per pixel of tiles of slides; None for level 0 as it is.
    """

    table: pd.DataFrame
    labels: NDArray[np.int64]
    classes: list[str]
    groups: NDArray[np.str_]
    folder: Path
    patch_px: int | None = None
    mpp: float | None = None

    def __len__(self) -> int:
        return len(self.table)

    def batches(self, size: int, rows: Sequence[int] | None = None) -> Iterator[Tensor]:
        """Pixels (B, P, P, 3) uint8 of these rows, or of all, in their order.

        Raises:
            SlideError: A tile that cannot be read, or that has another size than the first.
        """
        wanted = list(range(len(self)) if rows is None else rows)
        with ExitStack() as stack:
            source = _Source(self, stack)
            shape: tuple[int, ...] | None = None
            for start in range(0, len(wanted), size):
                tiles = [source.read(row) for row in wanted[start : start + size]]
                shape = shape or tiles[0].shape
                odd = [i for i, tile in enumerate(tiles) if tile.shape != shape]
                if odd:
                    raise SlideError(
                        f"{source.name(wanted[start + odd[0]])} has the shape "
                        f"{tiles[odd[0]].shape}, the tiles before it {shape}: bring them to one "
                        "size"
                    )
                yield torch.from_numpy(np.stack(tiles))  # (B, P, P, 3)


class _Source:
    """Reads tiles; keeps the last slide open, as rows are sorted by slide."""

    def __init__(self, tiles: LabelledTiles, stack: ExitStack) -> None:
        self.tiles = tiles
        self.stack = stack
        self._slide: tuple[str, SlideReader] | None = None
        self._paths: dict[str, Path] = {}
        if "path" not in tiles.table:
            self._paths = {e.slide_id: e.path for e in slides_from_folder(tiles.folder)}

    def name(self, row: int) -> str:
        item = self.tiles.table.iloc[row]
        if "path" in item:
            return str(item["path"])
        return f"tile ({item['x']}, {item['y']}) of slide {item['slide_id']!r}"

    def read(self, row: int) -> NDArray[np.uint8]:
        item = self.tiles.table.iloc[row]
        if "path" not in item:
            return self._from_slide(row, str(item["slide_id"]), int(item["x"]), int(item["y"]))
        path = self.tiles.folder / str(item["path"])
        # Pillow refuses a header of more than 179 megapixels, by an error of its own kind.
        with slide_errors(path), Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    def _from_slide(self, row: int, slide_id: str, x: int, y: int) -> NDArray[np.uint8]:
        reader = self._reader(slide_id)
        px = self.tiles.patch_px
        mpp = reader.mpp if self.tiles.mpp is None else self.tiles.mpp
        if px is None:
            raise ConfigError("tiles of slides need their side: give --patch_px")
        side = px * mpp / reader.mpp
        width, height = reader.dimensions_level0
        # half a pixel of tolerance: corners are rounded to pixels
        if min(x, y) < 0 or x + side > width + 0.5 or y + side > height + 0.5:
            raise CohortError(
                f"{self.name(row)} is not inside the slide ({width} x {height} px) with a side of "
                f"{side:g} level-0 pixels: give the --patch_px and --mpp of the grid that the "
                "tiles were labelled on"
            )
        return reader.read_patch(x, y, px, mpp)

    def _reader(self, slide_id: str) -> SlideReader:
        if self._slide is None or self._slide[0] != slide_id:
            if slide_id not in self._paths:
                raise CohortError(f"no slide {slide_id!r} in {self.tiles.folder}")
            self.stack.close()
            reader = open_slide(self._paths[slide_id])
            self.stack.callback(reader.close)
            self._slide = (slide_id, reader)
        return self._slide[1]


def read_tiles(
    path: Path,
    *,
    label: str,
    group: str,
    folder: Path | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    n_tiles: int | None = None,
    seed: int = 0,
    where: Mapping[str, Sequence[str]] | None = None,
) -> LabelledTiles:
    """Read a table of labelled tiles.

    Args:
        path: CSV table with ``path``, or with ``slide_id``, ``x`` and ``y`` (level-0 pixels).
        label: Column of the class; rows without one are left out.
        group: Column of the patient, or of what else must not be on two sides of a split.
        folder: Folder of the images or slides; the table's own by default.
        patch_px: Side of a tile of a slide.
        mpp: Its resolution; the slide's own by default.
        n_tiles: Draw this many at random; all by default.
        seed: Seed of the draw.
        where: Take only rows with one of these values in these columns.
    """
    try:
        table = read_table(path, {"slide_id": str, label: str, group: str})
    except FileNotFoundError as error:
        raise CohortError(f"no table of tiles at {path}") from error
    place = ["path"] if "path" in table else ["slide_id", "x", "y"]
    require_columns(table, [*place, label, group], path)
    table = _only(table, where or {}, path)
    for column in (label, group):
        table[column] = table[column].str.strip().replace("", None)
    table = table[table[label].notna()]
    nameless = table[table[group].isna()]
    if len(nameless):
        raise CohortError(f"{path}: {len(nameless)} labelled tiles have no {group}; fill it in")
    twice = table[table.duplicated(place)]
    if len(twice):
        raise CohortError(
            f"{path}: {len(twice)} tiles stand more than once, such as "
            f"{shorten([str(v) for v in twice[place].iloc[0]])}; give each one row"
        )
    if n_tiles is not None and n_tiles < len(table):
        table = table.sample(n_tiles, random_state=seed)
    table = table.sort_values(place, ignore_index=True)
    classes = sort_classes(table[label].unique().tolist())
    if len(classes) < 2:
        raise CohortError(
            f"{path}: column {label} has only the class {classes}; a probe needs at least two"
        )
    if "path" not in table and patch_px is None:
        raise ConfigError("tiles of slides need their side in pixels: give --patch_px")
    number = {name: i for i, name in enumerate(classes)}
    return LabelledTiles(
        table=table[place],
        labels=np.array([number[name] for name in table[label]], np.int64),
        classes=classes,
        groups=table[group].to_numpy(str),
        folder=path.parent if folder is None else folder,
        patch_px=patch_px,
        mpp=mpp,
    )


def _only(table: pd.DataFrame, where: Mapping[str, Sequence[str]], path: Path) -> pd.DataFrame:
    """The rows with one of these values in these columns."""
    for column, values in where.items():
        require_columns(table, [column], path)
        table = table[table[column].astype(str).isin([str(value) for value in values])].copy()
    if table.empty:
        raise CohortError(f"{path} has no rows with {dict(where)}: look at its columns")
    return table
