"""Knowledge gain per layer: tables of a study and their curves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotransfer_pl.records.tables import read_table
from histotransfer_pl.report.figure import (
    COLOURS,
    SWEET,
    Picture,
    new_figure,
    picture,
    style,
    write_counts,
)
from histotransfer_pl.report.table import Table
from histotransfer_pl.store.layout import encode_key

_NEEDED = ("layer", "pretrained", "random", "chance", "gain", "increment", "standard_error")


@dataclass(frozen=True, eq=False)
class GainCurve:
    """Knowledge gain of one encoder, one row per layer, from shallow to deep."""

    name: str
    table: pd.DataFrame
    facts: Mapping[str, Any]

    @property
    def score(self) -> str:
        """What was scored, as the page calls it."""
        name = str(self.facts.get("score", "score"))
        return {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}.get(name, name)

    @property
    def n(self) -> str:
        """The data, folds and random networks behind it."""
        data = (
            [f"n = {int(self.facts['n']):,} {self.facts.get('unit', 'items')}"]
            if "n" in self.facts
            else []
        )
        counts = [
            f"{int(self.table[column].iloc[0])} {word}"
            for column, word in (("n_folds", "folds"), ("n_seeds", "random networks"))
            if column in self.table
        ]
        return ", ".join([*data, *counts])

    def as_table(self) -> Table:
        """The curve as numbers."""
        page = self.table.map(lambda v: f"{v:.3f}" if isinstance(v, float) else _grouped(v))
        page.columns = [_column(str(c)) for c in page.columns]
        caption = f"Knowledge gain, {self.n}"
        return Table(f"gain_{encode_key(self.name)}", caption, self.table, page)


_COLUMNS = {
    "gain": "Gain G(l)", "increment": "Increment g(l)", "fold_sd": "SD over folds",
    "seed_sd": "SD over random networks", "n_folds": "Folds", "n_seeds": "Random networks",
    "dim": "Dimensions", "macs": "MACs",
}  # fmt: skip


def _column(name: str) -> str:
    base = name.removesuffix("_initial")
    words = _COLUMNS.get(base, base.replace("_", " ").capitalize())
    return words if base == name else f"{words}, initial BatchNorm"


def _grouped(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def read_gains(study_dir: Path | None) -> tuple[list[GainCurve], list[str]]:
    """All curves of a study, and what could not be read."""
    found: list[GainCurve] = []
    problems: list[str] = []
    for path in sorted((study_dir / "gain").glob("*.csv")) if study_dir else ():
        try:
            table = read_table(path, na_values=[""])
            side = path.with_suffix(".json")
            facts = json.loads(side.read_text(encoding="utf-8")) if side.is_file() else {}
        except ValueError as error:
            # pandas' and json's own errors are ValueErrors
            problems.append(f"{path.name} is damaged: {error}")
            continue
        missing = [name for name in _NEEDED if name not in table]
        if missing or table.empty:
            problems.append(f"{path.name} is no table of knowledge gain: no {', '.join(missing)}")
            continue
        found.append(GainCurve(path.stem, table, facts))
    return found, problems


def gain_figure(curve: GainCurve) -> Picture:
    """Scores of both arms above, their difference below."""
    table = curve.table
    layers, x = list(map(str, table["layer"])), np.arange(len(table))
    with style():
        figure = new_figure(8.2, 5.2)
        top, bottom = figure.subplots(2, 1, sharex=True)
        top.plot(x, table["pretrained"], "o-", color=COLOURS[0], label="pretrained")
        top.plot(x, table["random"], "s--", color=COLOURS[1], label="random weights (mean)")
        if "random_initial" in table:
            top.plot(x, table["random_initial"], "D-.", color=COLOURS[3], markersize=4,
                     label="the same, initial BatchNorm")  # fmt: skip
        if "seed_sd" in table:
            low, high = table["random"] - table["seed_sd"], table["random"] + table["seed_sd"]
            top.fill_between(x, low, high, color=COLOURS[1], alpha=0.15, linewidth=0,
                             label="± 1 SD over random networks")  # fmt: skip
        top.plot(x, table["chance"], ":", color="#6b7280", label="chance")
        sweet = str(curve.facts.get("sweet_spot", ""))
        if sweet in layers:
            place = layers.index(sweet)
            top.plot(place, table["pretrained"].iloc[place], "o", markersize=14, fillstyle="none",
                     color=SWEET, markeredgewidth=2, label="sweet spot")  # fmt: skip
        top.set_ylabel(f"Held-out {curve.score}")
        top.legend(fontsize=8.5, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.08))
        write_counts(top, curve.n)
        bottom.axhline(0, color="#6b7280", linewidth=0.8)
        bottom.bar(x, table["increment"], width=0.45, color="#cbd5e1", label="increment g(l)")
        bottom.errorbar(x, table["gain"], yerr=table["standard_error"], fmt="o-", capsize=3,
                        color=COLOURS[2], label="gain G(l) ± 1 SE")  # fmt: skip
        if "gain_initial" in table:
            bottom.plot(x, table["gain_initial"], "D-.", color=COLOURS[3], markersize=4,
                        label="gain over initial BatchNorm")  # fmt: skip
        bottom.set_ylabel("Knowledge gain")
        bottom.set_xlabel("Layer, from shallow to deep")
        bottom.set_xticks(x, layers)
        bottom.legend(fontsize=8.5)
        best = table.iloc[int(table["gain"].argmax())]
        words = str(curve.facts.get("random_batchnorm", "")).partition(";")[0]
        norm = f" BatchNorm statistics of the random networks: {words}." if words else ""
        both = (
            " The dash-dotted curves are random networks with initial statistics: the size of the "
            "gain depends on that choice."
            if "gain_initial" in table
            else ""
        )
        return picture(
            figure,
            f"gain_{encode_key(curve.name)}",
            f"Knowledge gain of {curve.facts.get('encoder', curve.name)}: score of a linear probe "
            f"on the pretrained network less the mean of random ones ({curve.n}).{norm}{both}",
            f"The gain is largest at {best['layer']} ({best['gain']:.3f})",
        )
