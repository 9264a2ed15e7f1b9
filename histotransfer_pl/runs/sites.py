"""Sites of a task's slides: results at each, and how much of every layer is the site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from histotransfer_pl.analysis.bootstrap import Interval, bootstrap_interval
from histotransfer_pl.analysis.site_layers import LayerSites, SiteRows, sites_of_layers
from histotransfer_pl.data.cohort import read_cohort
from histotransfer_pl.data.join import join_cohort
from histotransfer_pl.data.sites import with_sites
from histotransfer_pl.data.slide_means import mean_features, stored_array
from histotransfer_pl.errors import AnalysisError, CohortError, StoreError
from histotransfer_pl.outcomes.kinds import target_of_settings
from histotransfer_pl.runs.arms import Arm
from histotransfer_pl.runs.results import ArmResult, ranked
from histotransfer_pl.store.feature_store import FeatureStore

SMALLEST = 10
"""Fewest patients of a site that a probe in five folds can learn to name."""


@dataclass(frozen=True, eq=False)
class SiteResult:
    """An arm on the test slides of one site.

    Attributes:
        site: The site.
        arm: The arm, with these slides alone.
        score: The watched metric with its interval; None where there can be none.
        problem: Why not.
    """

    site: str
    arm: Arm
    score: Interval | None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class LayerAtSites:
    """One encoder at one depth: the best arm that reads it, and how much of it is the site."""

    result: ArmResult
    sites: LayerSites


@dataclass(frozen=True, eq=False)
class LayersAtSites:
    """How much of every layer is the site.

    Attributes:
        layers: By encoder, from shallow to deep.
        counts: The slides, patients and sites behind it, in words.
        problems: What was left out or could not be measured, and why.
    """

    layers: Sequence[LayerAtSites]
    counts: str
    problems: Sequence[str]


def site_column(arm: Arm, cohort: Path | None) -> str | None:
    """The column with the site, or ``tcga``: what the runs were told, else ``site`` if it is there.

    Raises:
        CohortError: The table cannot be read.
    """
    told = arm.runs[0].data.get("site")
    if told or cohort is None:
        return told
    return "site" if "site" in read_cohort(cohort) else None


def results_by_site(arm: Arm, cohort: Path | None, *, n_resamples: int = 2000) -> list[SiteResult]:
    """The watched metric of an arm at each site; empty where no site is known."""
    site_of = _sites_tested(arm, cohort)
    found = []
    for site in sorted(set(site_of.values())):
        cells = {}
        for cell, run in arm.cells.items():
            own = run.table[run.table["slide_id"].map(site_of) == site]
            if len(own):
                cells[cell] = replace(run, tested=replace(run.tested, frame=own))
        if not cells:
            continue
        part = Arm(arm.key, arm.task, cells, arm.words)
        try:
            score = bootstrap_interval(part.predictions(), part.watched, n_resamples=n_resamples)
            found.append(SiteResult(site, part, score))
        except AnalysisError as error:
            found.append(SiteResult(site, part, None, str(error)))
    return found


def _sites_tested(arm: Arm, cohort: Path | None) -> dict[str, str]:
    """Site of each tested slide, or of each patient where a bag is a patient."""
    tables = [run.table for run in arm.runs if "site" in run.table]
    key = "slide_id"
    if not tables and cohort is not None:
        table = read_cohort(cohort)
        key = "patient_id" if arm.task.bag == "patient" else key
        tables = [table] if {"site", key} <= set(table) else []
    pairs = [table.dropna(subset="site") for table in tables]
    return {str(k): str(v) for one in pairs for k, v in zip(one[key], one["site"], strict=True)}


def layers_at_sites(
    results: Sequence[ArmResult],
    order: Mapping[str, Sequence[str]],
    store: FeatureStore,
    cohort: Path,
    column: str,
    *,
    n_resamples: int = 2000,
) -> LayersAtSites:
    """Measure the layers that the arms of a task read, on the means of all labelled slides.

    Args:
        results: The arms; those of tuned encoders are left out, whose features are of one fold.
        order: Depths of each encoder, from shallow to deep.
        store: The store that the arms read.
        cohort: Their table.
        column: Column with the site, or ``tcga``.
        n_resamples: Resamples of each interval.
    """
    best: dict[str, dict[str, ArmResult]] = {}
    for result in ranked(results):
        key = result.arm.key
        if key.variant.frozen:
            best.setdefault(key.encoder, {}).setdefault(key.depth, result)
    layers: list[LayerAtSites] = []
    counts, problems = "", []
    for encoder, own in best.items():
        chosen = [own[depth] for depth in order.get(encoder, own) if depth in own]
        try:
            rows, left_out = _rows(chosen[0].arm, store, cohort, column)
            measured = _measure(chosen, rows, store, n_resamples)
        except (AnalysisError, CohortError, StoreError) as error:
            problems.append(f"{encoder}: {error}.")
            continue
        layers += [LayerAtSites(result, measured[result.arm.key.depth]) for result in chosen]
        counts = (
            f"n = {len(rows)} slides of {rows['patient_id'].nunique()} patients at "
            f"{rows['site'].nunique()} sites"
        )
        problems += [left_out] * bool(left_out)
    problems += [layer.sites.robust.problem + "." for layer in layers if layer.sites.robust.problem]
    return LayersAtSites(layers, counts, list(dict.fromkeys(problems)))


def _rows(arm: Arm, store: FeatureStore, cohort: Path, column: str) -> tuple[pd.DataFrame, str]:
    """Labelled slides of the sites that are large enough, and what was left out, in words."""
    run = arm.runs[0]
    features = run.record.features
    join = join_cohort(
        cohort,
        store,
        [stored_array(store, features.store_name, depth) for depth in features.depths],
        target_of_settings(run.data),
        [] if column == "tcga" else [column],
        strict=False,
    )
    rows = with_sites(join.labelled, column).dropna(subset="site")
    rows = rows.assign(site=rows["site"].astype(str))
    patients = rows.groupby("site")["patient_id"].nunique()
    small = patients.index[patients < SMALLEST]
    if len(patients) - len(small) < 2:
        raise AnalysisError(
            f"{len(patients) - len(small)} site(s) with {SMALLEST} patients or more, of "
            f"{len(patients)}: a probe cannot learn to name them"
        )
    note = f"{len(small)} site(s) with fewer than {SMALLEST} patients are left out of the layers."
    return rows[~rows["site"].isin(small)], note if len(small) else ""


def _measure(
    results: Sequence[ArmResult], rows: pd.DataFrame, store: FeatureStore, n_resamples: int
) -> dict[str, LayerSites]:
    layers = {}
    for result in results:
        features = result.arm.runs[0].record.features
        means = mean_features(
            store, rows["slide_id"].tolist(), features.store_name, features.depths
        )
        layers[result.arm.key.depth] = np.concatenate(list(means.values()), 1)  # (S, D)
    task = target_of_settings(results[0].arm.runs[0].data).task
    classes = rows["label"].to_numpy(str) if task in ("classification", "ordinal") else None
    sites, patients = (rows[name].to_numpy(str) for name in ("site", "patient_id"))
    return sites_of_layers(layers, SiteRows(sites, patients, classes), n_resamples=n_resamples)
