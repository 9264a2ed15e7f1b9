"""Painted scanners: tied to nothing else in the table; the stronger, the better they are seen."""

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.analysis.site_layers import SiteRows, sites_of_layers
from histotransfer_pl.slides.painted_outcomes import draw_outcomes, scan
from histotransfer_pl.slides.painting import mix_stain, paint_section


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_patients", [12, 40, 62])
def test_scanners_are_tied_to_nothing(n_patients: int, seed: int) -> None:
    table = draw_outcomes(n_patients, seed)
    for column in ("crowded", "label"):
        counts = pd.crosstab(table["scanner"], table[column]).to_numpy()
        assert np.ptp(counts) <= 2
        assert counts.sum() == n_patients


def test_a_scanner_changes_pictures_by_its_strength() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert (scan(rgb, 0) == rgb).all()
    change = [np.abs(scan(rgb, s).astype(int) - rgb).mean() for s in (0.1, 0.3, 1.0)]
    assert 0 < change[0] < change[1] < change[2]


def test_a_stronger_scanner_is_named_better_and_makes_colours_less_robust() -> None:
    table = draw_outcomes(24, 0)
    pictures = []
    for number in range(len(table)):
        rng = np.random.default_rng([0, number, 7])
        pictures.append(paint_section(rng, 160, mix_stain(rng), tumour=False).rgb)
    layers = {}
    for strength in (0.0, 0.3, 1.0):
        seen = [
            scan(rgb, strength if scanner == "B" else 0).reshape(-1, 3)
            for rgb, scanner in zip(pictures, table["scanner"], strict=True)
        ]
        layers[f"{strength:g}"] = np.stack([np.r_[one.mean(0), one.std(0)] for one in seen])
    rows = SiteRows(*(table[name].to_numpy(str) for name in ("scanner", "patient_id", "label")))
    found = sites_of_layers(layers, rows, n_resamples=100)
    named = [one.named.estimate for one in found.values()]
    index = [one.robust.index.estimate for one in found.values() if one.robust.index is not None]
    assert found["0"].named.low < 0.5 < found["0"].named.high
    assert named[0] + 0.1 < named[1] <= named[2]
    assert index[0] > index[2] + 0.1
