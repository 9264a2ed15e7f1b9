"""Robustness indices: golden values, the package croma, and networks of known colour."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.analysis import robustness
from histotransfer_pl.analysis.predictions import Floats, Ints
from histotransfer_pl.analysis.robustness import robustness_index, robustness_margins
from histotransfer_pl.errors import AnalysisError

Case = tuple[Floats, Ints, Ints, Ints]


def croma(*case: Any, m: int = 5) -> float:
    return float(np.median(robustness_margins(*case, m=m)))


def golden() -> Case:
    """600 rows of 200 patients, 3 classes and 4 sites, both drawn into the features."""
    r = np.random.default_rng(0)
    y, site = r.integers(0, 3, 600), r.integers(0, 4, 600)
    of_class, of_site = r.normal(size=(3, 32)), r.normal(size=(4, 32))
    features = of_class[y] + 0.8 * of_site[site] + r.normal(size=(600, 32))
    return features, y, site, np.arange(600) // 3


def test_golden_values() -> None:
    found = robustness_index(*golden(), ks=(5, 11, 21))
    assert found.k == 21
    assert found.value == pytest.approx(0.8940905602455871, rel=1e-12)
    assert croma(*golden()) == pytest.approx(0.17096410025607564, rel=1e-9)


@pytest.mark.parametrize("m", [1, 5])
def test_equals_the_package(m: int) -> None:
    from croma import RI, CRoMa

    rng = np.random.default_rng(m)
    y, site, patient = rng.integers(0, 2, 150), rng.integers(0, 3, 150), np.arange(150) // 2
    features = np.eye(6)[site] * 2 + np.eye(6)[y + 3] + rng.normal(size=(150, 6))
    names = np.arange(150).astype(str)
    table = pd.DataFrame(
        {
            "sample_id": names,
            "image_path": names,
            "patient_id": names,
            "group_id": patient.astype(str),
            "label": y.astype(str),
            "biological_class": y.astype(str),
            "class": y.astype(str),
            "center": site.astype(str),
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows without a telling neighbour
        ri = RI.compute(features, table, k_candidates=[3, 7, 15], confounder_column="center")
    found = robustness_index(features, y, site, patient, ks=(3, 7, 15))
    assert found.k == ri.k
    assert found.value == pytest.approx(ri.value, rel=1e-9)
    margin = CRoMa.compute(features, table, confounder_column="center", m=m).value
    assert croma(features, y, site, patient, m=m) == pytest.approx(margin, rel=1e-9)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = robustness_index(*golden()), croma(*golden())
    monkeypatch.setattr(robustness, "_BLOCK", 600 * 70)
    assert (robustness_index(*golden()), croma(*golden())) == whole


def test_the_more_site_the_less_robust() -> None:
    _, y, site, patient = golden()
    site = (patient % 4).astype(np.int64)
    rng = np.random.default_rng(1)
    of_class, of_site = rng.normal(size=(3, 32)), rng.normal(size=(4, 32))
    noise = rng.normal(size=(600, 32))
    layers = {f"{s}": of_class[y] + s * of_site[site] + noise for s in (0.0, 0.5, 1.5)}
    found = [robustness_index(x, y, site, patient).value for x in layers.values()]
    assert 0.9 < found[0] > found[1] > found[2]
    margins = [croma(x, y, site, patient) for x in layers.values()]
    assert margins[0] > margins[1] > 0 > margins[2]


def test_what_has_no_index_is_refused() -> None:
    features, y, site, patient = golden()
    with pytest.raises(AnalysisError, match="all rows are of one site"):
        robustness_index(features, y, np.zeros(600), patient)
    with pytest.raises(AnalysisError, match="600 rows of features, 5 classes"):
        robustness_margins(features, y[:5], site, patient)
    with pytest.raises(AnalysisError, match="600 of 600 rows, row 0 for instance, lack 5 neigh"):
        robustness_margins(features, y, y, patient)
    with pytest.raises(AnalysisError, match="shares class or site alone"):
        robustness_index(features, y, y, patient)
    features[3] = np.nan
    with pytest.raises(AnalysisError, match="not finite: verify the store"):
        robustness_index(features, y, site, patient)
