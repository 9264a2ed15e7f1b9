"""How much of a layer is the site: each number against its definition, intervals by hand."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from histotransfer_pl.analysis import site_layers
from histotransfer_pl.analysis.bootstrap import bootstrap_interval
from histotransfer_pl.analysis.metrics import accuracy
from histotransfer_pl.analysis.predictions import Floats, Predictions
from histotransfer_pl.analysis.probe import linear_probe
from histotransfer_pl.analysis.robustness import robustness_index, robustness_margins
from histotransfer_pl.analysis.site_layers import SiteRows, name_sites, sites_of_layers
from histotransfer_pl.errors import AnalysisError


def cohort(strengths: tuple[float, ...], n: int = 160) -> tuple[dict[str, Floats], SiteRows]:
    """Two slides per patient, two sites of unequal size, two classes; a layer per strength."""
    rng = np.random.default_rng(0)
    patient = np.arange(n) // 2
    site, label = (patient % 5 < 2).astype(int), (patient // 5 % 2).astype(int)
    of_class, of_site = rng.normal(size=(2, 8)), rng.normal(size=(2, 8))
    noise = rng.normal(size=(n, 8))
    layers = {f"{s:g}": of_class[label] + s * of_site[site] + noise for s in strengths}
    return layers, SiteRows(site.astype(str), patient.astype(str), label.astype(str))


def test_a_stronger_site_is_named_better_and_leaves_less_robust_layers() -> None:
    layers, rows = cohort((0.0, 0.7, 2.0))
    found = list(sites_of_layers(layers, rows, n_resamples=200).values())
    named, index, margin = (
        [one.estimate for one in row if one is not None]
        for row in zip(*[(f.named, f.robust.index, f.robust.margin) for f in found], strict=True)
    )
    assert found[0].named.low < 0.5 < found[0].named.high
    assert named[0] + 0.05 < named[1] < named[2]
    assert index[0] > index[1] > index[2]
    assert margin[0] > margin[1] > margin[2]
    assert rows.classes is not None
    facts = rows.classes, rows.sites, rows.patients
    own = [robustness_index(values, *facts, ks=(5, 11, 21)).k for values in layers.values()]
    assert len(set(own)) > 1
    assert {one.robust.k for one in found} == {sorted(own)[1]}
    assert (found[0].chance, found[0].robust.problem) == (0.5, "")


def test_values_are_those_of_their_definitions() -> None:
    layers, rows = cohort((0.5,))
    (found,) = sites_of_layers(layers, rows, n_resamples=100).values()
    site = np.asarray(rows.sites, int)
    probe = linear_probe(layers, site, np.asarray(rows.patients), score="balanced_accuracy")
    expected = balanced_accuracy_score(site, probe.probabilities["0.5"].argmax(1))
    assert found.named.estimate == pytest.approx(expected, rel=1e-9)
    assert rows.classes is not None
    assert found.robust.index is not None
    assert found.robust.margin is not None
    facts = layers["0.5"], rows.classes, rows.sites, rows.patients
    one = robustness_index(*facts, ks=(5, 11, 21))
    assert found.robust.k == one.k
    assert found.robust.index.estimate == pytest.approx(one.value, rel=1e-9)
    assert found.robust.margin.estimate == pytest.approx(
        np.median(robustness_margins(*facts)), rel=1e-9
    )
    # with every other row as a neighbour the features do not matter
    everyone = robustness_index(*facts, ks=(len(site) - 1,))
    assert found.robust.by_chance == pytest.approx(everyone.value, rel=1e-9)


def test_shares_are_resampled_by_patient_as_every_other_metric() -> None:
    rng = np.random.default_rng(1)
    label, patient = np.arange(60) % 2, np.repeat(np.arange(20), 3)  # each patient has both
    score = np.where(rng.random(60) < 0.7, label, 1 - label).astype(float)
    rows = SiteRows(label.astype(str), patient.astype(str))
    right = (score == label).astype(float)
    expected = bootstrap_interval(
        Predictions(np.arange(60).astype(str), patient.astype(str), label, score),
        accuracy,
        n_resamples=300,
    )
    found = rows.share(right, np.ones(60), 300)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert (found.n_patients, found.n_slides, found.method) == (20, 60, "BCa")


def test_certainty_is_never_claimed() -> None:
    _, rows = cohort((0.0,))
    found = rows.share(np.ones(160), np.ones(160), 100)
    assert (found.estimate, found.method) == (1, "Wilson")
    assert 0.85 < found.low < 0.95  # the smaller site has 32 patients


@pytest.mark.parametrize("block", [2_000_000, 50])
def test_medians_follow_how_often_patients_are_drawn(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_layers, "_BLOCK", block)
    rng = np.random.default_rng(2)
    values, patient = rng.normal(size=25), rng.integers(0, 7, 25)
    seen: list[tuple[Floats, Floats]] = []

    def interval_of(statistic, groups, n_slides, *, n_resamples):  # type: ignore[no-untyped-def]
        counts = rng.multinomial(7, np.full(7, 1 / 7), size=40).astype(float)
        seen.append((counts, statistic(counts)))

    monkeypatch.setattr(site_layers, "interval_of", interval_of)
    SiteRows(patient.astype(str), patient.astype(str)).median(values, 10)
    counts, medians = seen[0]
    expected = [np.median(np.repeat(values, row[patient].astype(int))) for row in counts]
    np.testing.assert_allclose(medians, expected, rtol=1e-12)


def test_what_lacks_a_measure_says_so() -> None:
    layers, rows = cohort((0.5,))
    without = SiteRows(rows.sites, rows.patients)
    (found,) = sites_of_layers(layers, without, n_resamples=50).values()
    assert (found.robust.index, found.robust.margin, found.robust.problem) == (None, None, "")
    bound = SiteRows(rows.sites, rows.patients, rows.sites)
    (found,) = sites_of_layers(layers, bound, n_resamples=50).values()
    assert "shares class or site alone" in found.robust.problem
    few = np.asarray(rows.classes).copy()
    few[np.asarray(rows.sites) == "1"] = "0"
    few[:2], few[10:12] = "1", "1"
    (found,) = sites_of_layers(
        layers, SiteRows(rows.sites, rows.patients, few), n_resamples=50
    ).values()
    assert found.robust.index is not None
    assert found.robust.margin is None
    assert "lack 5 neighbours" in found.robust.problem
    with pytest.raises(AnalysisError, match="needs 0, 1"):
        sites_of_layers(layers, SiteRows(np.zeros(160), rows.patients))


def test_patients_may_be_the_sites() -> None:
    """Then regions are kept apart, and each region is named from the others of its patient."""
    rng = np.random.default_rng(3)
    patient, region = np.repeat(np.arange(12), 6), np.repeat(np.arange(36), 2)
    own = rng.normal(size=(12, 6))
    features = own[patient] + 0.5 * rng.normal(size=(72, 6))
    names = patient.astype(str)
    rows = SiteRows(names, names, apart=region.astype(str))
    named = name_sites({"x": features}, rows, n_folds=3, n_inner_folds=2, n_resamples=200)["x"]
    assert named.low > 0.5
    assert named.n_patients == 12
