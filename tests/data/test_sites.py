import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency

from histotransfer_pl.data.sites import confounding, tcga_sites
from histotransfer_pl.errors import CohortError


def cohort(bound: float, n: int = 120, seed: int = 0) -> pd.DataFrame:
    """Patients with two slides each; a share of them has the label of the site."""
    rng = np.random.default_rng(seed)
    site = rng.integers(0, 3, n)
    label = np.where(rng.random(n) < bound, site % 2, rng.integers(0, 2, n))
    frame = pd.DataFrame({"patient_id": range(n), "site": site, "label": label})
    return pd.concat([frame, frame], ignore_index=True)


def test_effect_and_p_are_those_of_the_table_of_patients() -> None:
    frame = cohort(0.5)
    found = confounding(frame)
    counts = pd.crosstab(frame["label"], frame["site"]).to_numpy() / 2
    chi2, p_value, *_ = chi2_contingency(counts, correction=False)
    np.testing.assert_allclose(found.effect, np.sqrt(chi2 / 120), rtol=1e-9)
    np.testing.assert_allclose(found.p_value, p_value, rtol=1e-9)
    assert (found.n_patients, found.n_sites) == (120, 3)


def test_it_warns_where_the_site_says_the_label_and_not_elsewhere() -> None:
    bound = confounding(cohort(0.8))
    assert bound.warns
    assert str(bound).startswith("label and site are confounded (effect 0.67 of 1,")
    rng = range(100)
    assert sum(confounding(cohort(0.0, seed=seed)).warns for seed in rng) <= 5
    assert confounding(cohort(1.0)).effect == pytest.approx(1)


def test_small_counts_are_judged_by_permutation() -> None:
    frame = pd.DataFrame(
        {"patient_id": range(8), "site": list("aaaabbbb"), "label": list("xxxxyyyy")}
    )
    # 2 of the 70 ways to place the labels are as extreme
    assert confounding(frame).p_value == pytest.approx(2 / 70, abs=0.006)


def test_values_are_compared_by_ranks() -> None:
    frame = cohort(0.0)
    rng = np.random.default_rng(0)
    frame["label"] = frame["site"] + rng.normal(scale=0.1, size=len(frame))
    assert confounding(frame).effect > 0.8
    frame["label"] = rng.normal(size=len(frame))
    assert not confounding(frame).warns


def test_one_site_has_nothing_to_compare() -> None:
    with pytest.raises(CohortError, match="all 120 patients are of one site"):
        confounding(cohort(0.5).assign(site="h"))
    one = confounding(cohort(0.5).assign(label="x"))
    assert (one.effect, one.p_value) == (0, 1)


def test_the_site_of_tcga_names() -> None:
    names = pd.Series(["TCGA-A2-A0T2-01Z-00-DX1.ABC", "tcga-3c-aali-01A"])
    assert tcga_sites(names).tolist() == ["A2", "3C"]
    with pytest.raises(CohortError, match="'slide7' are no TCGA names"):
        tcga_sites(pd.Series(["TCGA-A2-A0T2-01Z", "slide7"]))
