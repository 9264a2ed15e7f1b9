"""Sites on the page: results at each, and how much of every layer is the site."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from histotransfer_pl.analysis.bootstrap import Interval
from histotransfer_pl.errors import CohortError
from histotransfer_pl.report.figure import (
    Picture,
    draw_intervals,
    new_figure,
    picture,
    style,
    write_counts,
)
from histotransfer_pl.report.summary import Answer
from histotransfer_pl.report.table import Table
from histotransfer_pl.runs.arms import encoder_label
from histotransfer_pl.runs.comparison import TaskResults
from histotransfer_pl.runs.costs import depth_order
from histotransfer_pl.runs.results import limits, span
from histotransfer_pl.runs.sites import (
    LayerAtSites,
    LayersAtSites,
    SiteResult,
    layers_at_sites,
    results_by_site,
    site_column,
)

_FLOOR = "#6b7280"  # of controls


@dataclass(frozen=True, eq=False)
class SitesSection:
    """What the page says of sites.

    Attributes:
        by_site: The best arm at each site.
        layers: How much of each layer is the site.
        figure: The same against depth.
        problems: What of it could not be measured, and why.
        answers: For the top of the page.
    """

    by_site: Table
    layers: Table | None = None
    figure: Picture | None = None
    problems: Sequence[str] = ()
    answers: Sequence[Answer] = ()


def describe_sites(
    found: TaskResults, rename: Callable[[str], str], n_resamples: int
) -> SitesSection | None:
    """Results by site and layers; None where no site is known or no arm can be ranked.

    Args:
        found: The arms of one task.
        rename: From the stem of a file to its name in this report.
        n_resamples: Resamples of each interval.
    """
    if found.best is None:
        return None
    try:
        results = results_by_site(found.best.arm, found.cohort, n_resamples=n_resamples)
        column = site_column(found.best.arm, found.cohort)
    except CohortError:
        return None  # the section on the cohort says it
    if not results:
        return None
    table = by_site_table(results, rename("by_site"))
    if found.store is None or found.cohort is None or column is None:
        return SitesSection(table)
    order = depth_order(found.arms, found.costs)
    layers = layers_at_sites(
        found.results, order, found.store, found.cohort, column, n_resamples=n_resamples
    )
    if not layers.layers:
        return SitesSection(table, problems=layers.problems)
    name = rename("site_in_layers")
    drawn, rows = layers_figure(layers, name), layers_table(layers, name)
    return SitesSection(table, rows, drawn, layers.problems, site_answers(layers))


def by_site_table(results: Sequence[SiteResult], name: str) -> Table:
    """One row per site: the metric of one arm on its test slides, or why it has none."""
    arm = results[0].arm
    raw = pd.DataFrame(
        [
            {
                "site": one.site,
                "n_slides": one.arm.n_slides(),
                "n_patients": one.arm.n_patients(),
                **limits(arm.outcome.watched, one.score),
                "problem": one.problem,
            }
            for one in results
        ]
    )
    page = pd.DataFrame(
        [
            {
                "Site": one.site,
                "Slides": str(one.arm.n_slides()),
                "Patients": str(one.arm.n_patients()),
                arm.title: span(one.score) if one.score else f"no interval: {one.problem}",
            }
            for one in results
        ]
    )
    note = (
        "Test slides of each site alone, with 95 % intervals over its patients. Unless the folds "
        "kept sites apart, a model was trained on other patients of the same site."
    )
    return Table(name, f"{arm.label} at each site", raw, page, note)


def layers_table(found: LayersAtSites, name: str) -> Table:
    """One row per encoder and depth: the metric beside what the layer knows of the site."""
    title = found.layers[0].result.arm.title
    raw, page = [], []
    for layer in found.layers:
        key, sites, robust = layer.result.arm.key, layer.sites, layer.sites.robust
        measured = {"site_named": sites.named, "robustness": robust.index, "croma": robust.margin}
        row: dict[str, object] = {"encoder": encoder_label(key), "depth": key.depth}
        row |= limits(layer.result.arm.outcome.watched, layer.result.score)
        for column, interval in measured.items():
            row |= limits(column, interval)
        chances = {"site_by_chance": sites.chance, "robustness_by_chance": robust.by_chance}
        raw.append({**row, **chances, "k": robust.k})
        shown = {"Encoder": encoder_label(key), "Depth": key.depth, title: layer.result.score}
        shown |= {f"Site named (chance {sites.chance:.2f})": sites.named}
        shown |= {"Robustness index": robust.index, "CRoMa": robust.margin}
        page.append({n: span(v) if isinstance(v, Interval | None) else v for n, v in shown.items()})
    note = (
        f"{found.counts}; the means of each slide's patches. Site named: balanced accuracy with "
        "which a linear probe names the site of patients it has not seen. Robustness index (RI, "
        "de Jong et al. 2025): of the nearest slides of other patients that share either class or "
        f"site, the share that has the class{_at_k(found.layers[0])}. CRoMa: median margin by "
        "which the class is nearer than the site, from -1 to 1. 95 % intervals resample patients, "
        "not sites."
    )
    caption = "How much of each layer is the site"
    return Table(name, caption, pd.DataFrame(raw), pd.DataFrame(page), note)


def _at_k(layer: LayerAtSites) -> str:
    robust = layer.sites.robust
    if robust.by_chance is None:
        return ""
    return f", read at k = {robust.k}; {robust.by_chance:.2f} where neighbours are random"


_Measure = Callable[[LayerAtSites], Interval | None]
_MEASURES: tuple[tuple[str, _Measure, Callable[[LayerAtSites], float | None]], ...] = (
    ("Site named\n(balanced accuracy)", lambda a: a.sites.named, lambda a: a.sites.chance),
    ("Robustness index", lambda a: a.sites.robust.index, lambda a: a.sites.robust.by_chance),
    ("CRoMa", lambda a: a.sites.robust.margin, lambda _: 0.0),
)


def layers_figure(found: LayersAtSites, name: str) -> Picture | None:
    """The measures of the site at each depth, above one another."""
    curves = _curves(found)
    measures = [one for one in _MEASURES if any(one[1](layer) for layer in found.layers)]
    if max(map(len, curves.values())) < 2:
        return None
    with style():
        figure = new_figure(7.6, 0.9 + 1.9 * len(measures) + 0.12 * len(curves))
        panels = figure.subplots(len(measures), 1, sharex=True, squeeze=False)[:, 0]
        for panel, (title, measure, chance) in zip(panels, measures, strict=True):
            for number, (label, layers) in enumerate(curves.items()):
                values = [measure(layer) for layer in layers]
                taught = layers[0].result.arm.key.weights_kind != "random"
                _draw(panel, label, values, number, "-" if taught else "--")
            floor = chance(found.layers[0])
            if floor is not None:
                panel.axhline(floor, color=_FLOOR, linestyle=":", label="by chance")
            panel.set_ylabel(title)
        depths = [dict.fromkeys(names) for names in zip_longest(*map(_depths, curves.values()))]
        ticks = ["\n".join(filter(None, names)) for names in depths]
        panels[-1].set_xticks(range(len(ticks)), ticks)
        panels[-1].set_xlabel("Depth at which the encoder is cut, from shallow to deep")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=8.5)
        write_counts(panels[0], found.counts)
        return picture(
            figure,
            name,
            f"How much of each layer is the site, {found.counts}; bars: 95 % intervals over "
            "patients; dotted: a layer that knows nothing of the site, and of the class. The more "
            "site, the higher the first panel and the lower the others.",
            "; ".join(f"{label}: {_in_words(layers)}" for label, layers in curves.items()),
        )


def _curves(found: LayersAtSites) -> dict[str, list[LayerAtSites]]:
    curves: dict[str, list[LayerAtSites]] = {}
    for layer in found.layers:
        curves.setdefault(encoder_label(layer.result.arm.key), []).append(layer)
    return curves


def _depths(layers: Sequence[LayerAtSites]) -> list[str]:
    return [layer.result.arm.key.depth for layer in layers]


def _draw(
    axis: Axes, label: str, values: Sequence[Interval | None], number: int, line: str
) -> None:
    known = [(place, one) for place, one in enumerate(values) if one is not None]
    if known:
        x = np.array([place + 0.06 * number for place, _ in known])
        draw_intervals(axis, x, [one for _, one in known], label, number, line)


def _in_words(layers: Sequence[LayerAtSites]) -> str:
    return ", ".join(
        f"{layer.result.arm.key.depth} {layer.sites.named.estimate:.2f}" for layer in layers
    )


def site_answers(found: LayersAtSites) -> list[Answer]:
    """Whether cutting each encoder takes the site out of it."""
    return [
        Answer(f"Does cutting {label} make it less of a site?", _answer(layers))
        for label, layers in _curves(found).items()
        if len(layers) > 1
    ]


def _answer(layers: Sequence[LayerAtSites]) -> str:
    """Of depths that are equal the deepest is named: no cut is better than it."""
    deepest, chance = layers[-1], layers[0].sites.chance
    least = min(reversed(layers), key=lambda layer: layer.sites.named.estimate)
    text = f"The site of unseen patients is named in {_at(least, least.sites.named)}"
    if least is deepest:
        text += ", the deepest cut, and no less in a shallower one"
    else:
        text += f", the least, and in {_at(deepest, deepest.sites.named)}"
    text += f"; {chance:.2f} is chance."
    known = [layer for layer in reversed(layers) if layer.sites.robust.index is not None]
    if known:
        best = max(known, key=_index)
        text += f" The robustness index is highest with {_at(best, best.sites.robust.index)}"
        if best is not deepest:
            text += f"; it is {_at(deepest, deepest.sites.robust.index)}"
        text += "."
    return text


def _at(layer: LayerAtSites, interval: Interval | None) -> str:
    return f"{span(interval)} at {layer.result.arm.key.depth}"


def _index(layer: LayerAtSites) -> float:
    index = layer.sites.robust.index
    return float("nan") if index is None else index.estimate
