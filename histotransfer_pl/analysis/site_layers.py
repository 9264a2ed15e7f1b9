"""How much of each layer of a network is the site, each number with its interval over patients.

Intervals resample patients; folds, probes and neighbours stay as they are. They say what other
patients of these sites would change, and not what other sites would.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.analysis.bootstrap import Interval, interval_of, wilson
from histotransfer_pl.analysis.metrics import accuracy, ratio
from histotransfer_pl.analysis.probe import Features, linear_probe
from histotransfer_pl.analysis.robustness import Names, robustness_index, robustness_margins
from histotransfer_pl.analysis.targets import Floats, Ints
from histotransfer_pl.errors import AnalysisError

KS = (5, 11, 21, 51, 101)
"""Numbers of neighbours to choose from, of those that are at most a quarter of the rows."""
# resamples times rows held at once: 16 MB
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Robustness:
    """Whether near neighbours share the class or the site.

    Attributes:
        index: Robustness index; None where there can be none.
        by_chance: The index where any row may be the neighbour of any other.
        k: Neighbours it was read at, the same for all layers.
        margin: Median margin by which the class is nearer than the site (CRoMa).
        problem: Why there is no index, or no margin.
    """

    index: Interval | None = None
    by_chance: float | None = None
    k: int | None = None
    margin: Interval | None = None
    problem: str = ""


@dataclass(frozen=True)
class LayerSites:
    """How much of one layer is the site.

    Attributes:
        named: Balanced accuracy with which a linear probe names the site of unseen patients.
        chance: Its value where the layer knows nothing of the site.
        robust: Whether neighbours share the class or the site.
    """

    named: Interval
    chance: float
    robust: Robustness


@dataclass(frozen=True, eq=False)
class SiteRows:
    """Rows of patches or slides, and where they come from.

    Attributes:
        sites: (N,) site of each row.
        patients: (N,) patient of each row, the unit that is resampled.
        classes: (N,) class of each row; None where the target has none: no index then.
        apart: (N,) rows of one of these are on one side of a fold, and no neighbours of one
            another; patients when None.
    """

    sites: Names
    patients: Names
    classes: Names | None = None
    apart: Names | None = None

    @property
    def kept(self) -> Names:
        """What is on one side of a fold."""
        return self.patients if self.apart is None else self.apart

    @property
    def numbers(self) -> Ints:
        """(N,) number of each row's site."""
        return np.unique(np.asarray(self.sites), return_inverse=True)[1].astype(np.int64)

    @property
    def owners(self) -> Ints:
        """(N,) number of each row's patient."""
        return np.unique(np.asarray(self.patients), return_inverse=True)[1].astype(np.int64)

    @property
    def index_by_chance(self) -> float:
        """The robustness index where every row is a neighbour of every other."""
        codes = [
            np.unique(np.asarray(names), return_inverse=True)[1]
            for names in (self.classes, self.sites, self.kept)
        ]

        def alike(*which: int) -> Ints:
            """How many rows share all of these with each row, (N,)."""
            keys = np.stack([codes[one] for one in which], 1)
            _, place, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
            return np.asarray(count[place.reshape(-1)], np.int64)

        both = alike(0, 1) - alike(0, 1, 2)  # of other patients
        for_class = (alike(0) - alike(0, 2) - both).sum()
        for_site = (alike(1) - alike(1, 2) - both).sum()
        return float(for_class / (for_class + for_site))

    def share(self, above: NDArray[Any], below: NDArray[Any], n_resamples: int) -> Interval:
        """Sum of one number per row (N,) by that of another (N,), from 0 to 1.

        Where resampling claims certainty, Wilson's interval for as many trials as the smallest
        site has patients takes its place.
        """
        own, whole = (np.bincount(self.owners, rows) for rows in (above, below))  # (patients,)

        def statistic(counts: Floats) -> Floats:
            return ratio(counts @ own, counts @ whole)

        try:
            return interval_of(
                statistic, np.zeros(len(own), np.int64), len(above), n_resamples=n_resamples
            )
        except AnalysisError:
            trials = min(
                len(np.unique(self.owners[self.numbers == site])) for site in set(self.numbers)
            )
            value, level = float(own.sum() / whole.sum()), 0.95
            limits = wilson(value, trials, accuracy, level)
            return Interval(value, *limits, level, len(own), len(above), "Wilson")

    def median(self, values: Floats, n_resamples: int) -> Interval:
        """Median of one number per row (N,), patients weighing as often as they are drawn."""
        order = np.argsort(values, kind="stable")
        rising, owner = values[order], self.owners[order]  # (N,) each
        step = max(1, _BLOCK // len(values))

        def statistic(counts: Floats) -> Floats:
            medians = []
            for start in range(0, len(counts), step):
                weight = counts[start : start + step, owner].cumsum(1)  # (B, N)
                half = weight[:, -1:] / 2
                low, high = (weight >= half).argmax(1), (weight > half).argmax(1)  # (B,) each
                medians.append((rising[low] + rising[high]) / 2)
            return np.concatenate(medians)

        groups = np.zeros(int(owner.max()) + 1, np.int64)
        return interval_of(statistic, groups, len(values), n_resamples=n_resamples)


def sites_of_layers(
    features: Mapping[str, Features], rows: SiteRows, *, n_resamples: int = 2000
) -> dict[str, LayerSites]:
    """Measure every layer on the same folds and with the same number of neighbours.

    Args:
        features: Layer name to features (N, D), in order of depth.
        rows: Where the rows come from.
        n_resamples: Resamples of each interval.

    Raises:
        AnalysisError: One site only, or a site with too few patients for the folds.
    """
    named = name_sites(features, rows, n_resamples=n_resamples)
    chance = 1 / len(set(rows.numbers))
    try:
        robust = robustness_of_layers(features, rows, n_resamples=n_resamples)
    except AnalysisError as error:
        robust = dict.fromkeys(named, Robustness(problem=str(error)))
    return {layer: LayerSites(one, chance, robust[layer]) for layer, one in named.items()}


def name_sites(
    features: Mapping[str, Features],
    rows: SiteRows,
    *,
    n_folds: int = 5,
    n_inner_folds: int = 3,
    n_resamples: int = 2000,
) -> dict[str, Interval]:
    """Balanced accuracy with which a linear probe names the site, for each layer.

    Args:
        features: Layer name to features (N, D).
        rows: Where the rows come from.
        n_folds: Folds of the probe.
        n_inner_folds: Folds within, which choose its penalty.
        n_resamples: Resamples of each interval.

    Raises:
        AnalysisError: One site only, or a site with too few patients for the folds.
    """
    numbers = rows.numbers
    probe = linear_probe(
        features, numbers, np.asarray(rows.kept), score="balanced_accuracy", n_folds=n_folds,
        n_inner_folds=n_inner_folds,
    )  # fmt: skip
    weight = 1 / np.bincount(numbers)[numbers]  # (N,), sites weigh alike
    return {
        layer: rows.share(weight * (given.argmax(1) == numbers), weight, n_resamples)
        for layer, given in probe.probabilities.items()
    }


def robustness_of_layers(
    features: Mapping[str, Features], rows: SiteRows, *, n_resamples: int = 2000
) -> dict[str, Robustness]:
    """The robustness index of each layer, all at one k, and its CRoMa.

    The k is the median of those at which neighbours tell the class best in each layer: an index at
    another k is another index.

    Args:
        features: Layer name to features (N, D).
        rows: Where the rows come from.
        n_resamples: Resamples of each interval.

    Raises:
        AnalysisError: One class or one site only, or the one cannot be told from the other.
    """
    if rows.classes is None:
        return dict.fromkeys(features, Robustness())
    facts = rows.classes, rows.sites, rows.kept
    n = len(rows.numbers)
    ks = tuple(k for k in KS if 4 * k <= n) or KS[:1]
    own = {layer: robustness_index(values, *facts, ks=ks) for layer, values in features.items()}
    k = median_low(one.k for one in own.values())
    found = {}
    for layer, values in features.items():
        index = own[layer] if own[layer].k == k else robustness_index(values, *facts, ks=(k,))
        share = rows.share(index.for_class, index.for_class + index.for_site, n_resamples)
        margin, problem = None, ""
        try:
            margin = rows.median(robustness_margins(values, *facts), n_resamples)
        except AnalysisError as error:
            problem = str(error)
        found[layer] = Robustness(share, rows.index_by_chance, k, margin, problem)
    return found
