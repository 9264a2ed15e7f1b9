"""Where slides come from, and whether the label can be read off the site."""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import PermutationMethod, chi2_contingency, kruskal
from scipy.stats.contingency import association
from typing_extensions import override

from histotransfer_pl.errors import CohortError, shorten

_TCGA = re.compile(r"TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}", re.IGNORECASE)
# an effect of which Cohen (1988) says medium
_LARGE = 0.3


@dataclass(frozen=True)
class Confounding:
    """How far the label depends on the site, over patients.

    Attributes:
        effect: 0 where the site says nothing, 1 where it says all: Cramer's V of classes, or the
            root of epsilon squared (Kruskal and Wallis) of values.
        p_value: Of no dependence.
        n_patients: Patients counted, each once.
        n_sites: Sites.
    """

    effect: float
    p_value: float
    n_patients: int
    n_sites: int

    @property
    def warns(self) -> bool:
        """Whether a model could learn the label by learning the site."""
        return self.p_value < 0.05 and self.effect >= _LARGE

    @override
    def __str__(self) -> str:
        return (
            f"label and site are confounded (effect {self.effect:.2f} of 1, p {self.p_value:.2g}, "
            f"{self.n_patients} patients at {self.n_sites} sites): what is learnt may be the "
            "site; split by site and read the results by site"
        )


def tcga_sites(slide_ids: pd.Series) -> pd.Series:
    """The tissue source site of TCGA names, the XX of ``TCGA-XX-1234-...``."""
    found = slide_ids.str.extract(_TCGA, expand=False)
    if found.isna().any():
        raise CohortError(
            f"{shorten(slide_ids[found.isna()].tolist())} are no TCGA names (TCGA-XX-1234-...): "
            "give a column with the site"
        )
    return found.str.upper()


def with_sites(slides: pd.DataFrame, site: str | None) -> pd.DataFrame:
    """The slides with a column ``site``.

    Args:
        slides: With ``slide_id`` and the column.
        site: The column; ``tcga`` reads the site out of the names; None adds nothing.

    Raises:
        CohortError: A name that is none of TCGA.
    """
    if site is None:
        return slides
    own = tcga_sites(slides["slide_id"]) if site == "tcga" else slides[site]
    return slides.assign(site=own)


def confounding(frame: pd.DataFrame) -> Confounding:
    """Test and size of the dependence of label and site.

    Each patient counts once, with its first label and site. Small expected counts are judged by
    permutation.

    Args:
        frame: Columns ``patient_id``, ``site`` and ``label``: words, or floats for a value.
    """
    patients = frame.drop_duplicates("patient_id")
    n, n_sites = len(patients), patients["site"].nunique()
    if n_sites < 2:
        raise CohortError(f"all {n} patients are of one site: nothing to keep apart or compare")
    if pd.api.types.is_float_dtype(patients["label"]):
        values = patients["label"].groupby(patients["site"])
        statistic, p_value = kruskal(*(group.to_numpy() for _, group in values))
        effect = float(np.sqrt(statistic / (n - 1)))
        return Confounding(effect, float(p_value), n, n_sites)
    counts = pd.crosstab(patients["label"], patients["site"]).to_numpy()
    if len(counts) < 2:
        return Confounding(0.0, 1.0, n, n_sites)
    plain = chi2_contingency(counts, correction=False)
    p_value = plain.pvalue
    if plain.expected_freq.min() < 5:
        method = PermutationMethod(n_resamples=9999, rng=np.random.default_rng(0))
        p_value = chi2_contingency(counts, correction=False, method=method).pvalue
    effect = float(association(counts, method="cramer"))
    return Confounding(effect, float(p_value), n, n_sites)
