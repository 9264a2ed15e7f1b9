"""CKA matrices of a study: heatmaps and their diagonals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from histotransfer_pl.records.tables import read_table
from histotransfer_pl.report.figure import (
    COLOURS,
    MARKERS,
    SEQUENTIAL,
    Picture,
    new_figure,
    picture,
    style,
    write_counts,
)
from histotransfer_pl.report.table import Table
from histotransfer_pl.store.layout import encode_key


@dataclass(frozen=True, eq=False)
class Similarity:
    """A matrix of CKA values.

    Attributes:
        name: Stem of its files.
        layers_x: Blocks of the first network, from shallow to deep.
        layers_y: Blocks of the second.
        values: (X, Y) CKA; NaN where a block is constant.
        facts: What its JSON file says: n, d, controls, names.
    """

    name: str
    layers_x: tuple[str, ...]
    layers_y: tuple[str, ...]
    values: NDArray[np.float64]
    facts: Mapping[str, Any]

    @property
    def n(self) -> str:
        """Number of patches in words."""
        counts = [self.facts[k] for k in ("n", "patches", "n_patches") if k in self.facts]
        return f"n = {int(counts[0]):,} patches" if counts else "n not recorded"

    @property
    def sides(self) -> tuple[str, str]:
        """Names of both networks."""
        if not self._named:
            return ("first network", "second network")
        return (self._network("x"), self._network("y"))

    @property
    def _named(self) -> bool:
        return isinstance(self.facts.get("x"), str) and isinstance(self.facts.get("y"), str)

    def _network(self, side: str) -> str:
        """One network in words; of a tuned one the encoder, on which patches and in which fold."""
        known = self.facts.get(f"encoder_{side}")
        if not isinstance(known, Mapping) or "tuned_rule" not in known:
            return str(self.facts[side])
        rule = {"attention": "top-k"}.get(known["tuned_rule"], known["tuned_rule"])
        return f"{known['encoder']} tuned on {rule} (fold {known.get('tuned_fold')})"

    @property
    def diagonal(self) -> dict[str, float]:
        """CKA of each block with the block of the same name, where it is defined."""
        found: dict[str, float] = {}
        for row, name in enumerate(self.layers_x):
            if name in self.layers_y:
                value = float(self.values[row, self.layers_y.index(name)])
                found |= {name: value} if np.isfinite(value) else {}
        return found

    @property
    def title(self) -> str:
        """Both networks in words."""
        maps = ", feature maps" if self.facts.get("space") == "flattened" else ""
        return " and ".join(self.sides) + maps if self._named else self.name

    def as_table(self) -> Table:
        """The matrix as numbers."""
        frame = pd.DataFrame(self.values, columns=list(self.layers_y))
        frame.insert(0, "layer", list(self.layers_x))
        page = frame.map(lambda v: v if isinstance(v, str) else f"{v:.3f}")
        return Table(f"cka_{encode_key(self.name)}", f"CKA, {self.n}", frame, page)


def read_similarities(study_dir: Path | None) -> tuple[list[Similarity], list[str]]:
    """All matrices of a study, and what could not be read."""
    found: list[Similarity] = []
    problems: list[str] = []
    for path in sorted((study_dir / "similarity").glob("*.csv")) if study_dir else ():
        try:
            found.append(_read(path))
        except (ValueError, KeyError) as error:
            # pandas' and json's own errors are ValueErrors
            problems.append(f"{path.name} is no CKA matrix: {error}")
    return found, problems


def _read(path: Path) -> Similarity:
    table = read_table(path, na_values=[""])
    side = path.with_suffix(".json")
    facts = json.loads(side.read_text(encoding="utf-8")) if side.is_file() else {}
    if {"layer_x", "layer_y", "cka"} <= set(table.columns):
        rows, columns = (list(dict.fromkeys(map(str, table[c]))) for c in ("layer_x", "layer_y"))
        wide = table.pivot_table(index="layer_x", columns="layer_y", values="cka", sort=False)
        matrix = wide.reindex(index=rows, columns=columns)
    else:
        matrix = table.set_index(table.columns[0])
    values = matrix.to_numpy(float)  # (X, Y)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"it has the shape {values.shape}")
    names_x, names_y = tuple(map(str, matrix.index)), tuple(map(str, matrix.columns))
    return Similarity(path.stem, names_x, names_y, values, facts)


_DARK_BELOW = 0.48
"""Values on cividis below which white letters have more contrast than black ones."""


def heatmap(similarity: Similarity) -> Picture:
    """The matrix, deep blocks at the top right, each cell with its value."""
    x, y = similarity.sides
    rows, columns = similarity.values.shape
    with style():
        figure = new_figure(1.9 + 0.5 * columns, 1.6 + 0.4 * rows)
        axis = figure.add_subplot()
        axis.grid(visible=False)
        image = axis.imshow(
            similarity.values, cmap=SEQUENTIAL, vmin=0, vmax=1, origin="lower", aspect="auto"
        )
        for (i, j), value in np.ndenumerate(similarity.values):
            colour = "black" if value > _DARK_BELOW else "white"
            text = "–" if np.isnan(value) else f"{value:.2f}"
            axis.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
        axis.set_xticks(range(columns), similarity.layers_y, rotation=45, ha="right")
        axis.set_yticks(range(rows), similarity.layers_x)
        axis.set_xlabel(y)
        axis.set_ylabel(x)
        figure.colorbar(image, ax=axis, label="CKA (1: alike, 0: unrelated)", pad=0.02)
        write_counts(axis, similarity.n)
        return picture(
            figure,
            f"cka_{encode_key(similarity.name)}",
            f"CKA of every block of {x} (rows) with every block of {y} (columns), both seeing the "
            f"same patches, {similarity.n}. The diagonal compares a block with itself.",
            f"Heatmap of {rows} by {columns} CKA values from {np.nanmin(similarity.values):.2f} to "
            f"{np.nanmax(similarity.values):.2f}",
        )


def diagonals(similarities: Sequence[Similarity]) -> Picture | None:
    """CKA of each block with the same block of the other network, one curve a matrix."""
    shown = [s for s in similarities if set(s.layers_x) & set(s.layers_y)][: len(COLOURS)]
    if not shown:
        return None
    with style():
        figure = new_figure(8.2, 3.6 + 0.35 * len(shown))
        axis = figure.add_subplot()
        names = list(dict.fromkeys(n for s in shown for n in s.layers_x if n in s.layers_y))
        for number, one in enumerate(shown):
            own = [n for n in one.layers_x if n in one.layers_y]
            values = [one.values[one.layers_x.index(n), one.layers_y.index(n)] for n in own]
            _draw_floor(axis, one, names, number)
            axis.plot(
                [names.index(n) for n in own], values, marker=MARKERS[number],
                color=COLOURS[number], label=f"{one.title} ({one.n})",
            )  # fmt: skip
        axis.set_xticks(range(len(names)), names)
        axis.set_xlabel("Block, from shallow to deep")
        axis.set_ylabel("CKA with the same block")
        axis.set_ylim(min([-0.03, *(float(np.nanmin(s.values)) for s in shown)]), 1.05)
        figure.legend(loc="outside upper left", fontsize=8.5)
        return picture(
            figure,
            "cka_diagonal",
            "CKA of each block with the same block of the other network: where the curve drops, "
            "the representations part. Dashed: the floor, the same network untrained.",
            f"{len(shown)} curves over {len(names)} blocks",
        )


def _draw_floor(axis: Axes, one: Similarity, names: Sequence[str], number: int) -> None:
    """The control: the first network with the same network untrained."""
    controls = one.facts.get("controls")
    floor = controls.get("with random") if isinstance(controls, Mapping) else None
    if not isinstance(floor, Mapping):
        return
    points = [(names.index(n), v) for n, v in floor.items() if n in names and v is not None]
    if points:
        x, y = zip(*points, strict=True)
        label = f"{one.sides[0]} with random weights (control)"
        axis.plot(x, y, "--", color=COLOURS[number], linewidth=1, alpha=0.7, label=label)


def facts_in_words(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a JSON file says beside its table, one line a fact."""
    return [(str(key).replace("_", " "), _words(value)) for key, value in facts.items()]


def _words(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_words(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
