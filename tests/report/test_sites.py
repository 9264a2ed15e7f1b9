"""Sites on the page: results at each, small ones named, and how much of each layer is the site."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.analysis.bootstrap import Interval, bootstrap_interval
from histotransfer_pl.analysis.metrics import auroc
from histotransfer_pl.analysis.predictions import Predictions
from histotransfer_pl.analysis.site_layers import LayerSites, Robustness
from histotransfer_pl.report.build import Settings, make_page
from histotransfer_pl.report.page import Page, render
from histotransfer_pl.report.sites import site_answers
from histotransfer_pl.runs.results import ArmResult
from histotransfer_pl.runs.run import ArmKey
from histotransfer_pl.runs.sites import LayerAtSites, LayersAtSites
from histotransfer_pl.runs.study import load_runs
from histotransfer_pl.store.importer import import_arrays
from tests.runs.folders import N_PATIENTS, predictions, write_run

QUICK = Settings(n_slides=0, resamples=200)
SITES = {f"p{p:02}": "tiny" if p < 3 else f"h{p // 2 % 2}" for p in range(N_PATIENTS)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features in which the site is plain at the last depth and hidden at the first."""
    folder = tmp_path_factory.mktemp("sites")
    rng = np.random.default_rng(0)
    table = pd.concat([predictions(fold, 1.0) for fold in range(3)], ignore_index=True)
    table = table[["slide_id", "patient_id", "label"]].sort_values("slide_id")
    table["site"] = table["patient_id"].map(SITES)
    noise = rng.normal(size=(len(table), 5))
    own = np.stack([table["label"] == "1", table["site"] == "h1"], 1).astype(float)  # (S, 2)
    for depth, strength in (("first", 0.0), ("last", 4.0)):
        features = noise.copy()
        features[:, :2] += own * [2.0, strength]
        import_arrays(
            folder / "s.zarr", features.astype(np.float32), table["slide_id"].to_numpy(), "enc",
            depth,
        )  # fmt: skip
    table.to_csv(folder / "c.csv", index=False)
    return folder


def page_of(place: Path, *, site: str | None = None, cohort: str = "c.csv") -> Page:
    folders = []
    for depth, quality in (("first", 1.0), ("last", 2.0)):
        for fold in range(3):
            table = predictions(fold, quality)
            if site is not None:
                table["site"] = table["patient_id"].map(SITES)
            settings: dict[str, Any] = {"store": str(place / "s.zarr")}
            settings |= {"cohort": str(place / cohort), "site": site}
            name = place / str(len(list(place.iterdir())))
            folders.append(write_run(name, table, depth=depth, fold=fold, **settings))
    return make_page(load_runs(folders), QUICK)


@pytest.mark.parametrize("site", [None, "site"])
def test_each_site_has_its_interval_or_says_why_not(place: Path, site: str | None) -> None:
    page = page_of(place, site=site)
    sites = page.tasks[0].sites
    assert sites is not None
    frame = sites.by_site.frame.set_index("site")
    assert frame["n_patients"].to_dict() == {"h0": 14, "h1": 13, "tiny": 3}
    assert frame["n_slides"].to_dict() == {"h0": 28, "h1": 26, "tiny": 6}
    tested = pd.concat([predictions(fold, 2.0).assign(fold=fold) for fold in range(3)])
    own = tested[tested["patient_id"].map(SITES) == "h0"]
    expected = bootstrap_interval(
        Predictions(
            own["slide_id"].to_numpy(str), own["patient_id"].to_numpy(str),
            own["label"].astype(int).to_numpy(), own["p_1"].to_numpy(), own["fold"].to_numpy(),
        ),
        auroc,
        n_resamples=200,
    )  # fmt: skip
    found = [frame[name].to_dict()["h0"] for name in ("auroc", "auroc_low", "auroc_high")]
    assert found == pytest.approx([expected.estimate, expected.low, expected.high], rel=1e-9)
    assert frame["auroc"].isna().to_dict() == {"h0": False, "h1": False, "tiny": True}
    assert "an interval needs at least 3 of each" in frame["problem"].to_dict()["tiny"]
    assert "no interval: class 0 has 2 patient(s)" in render(page)


def test_each_layer_says_how_much_of_it_is_the_site(place: Path) -> None:
    page = page_of(place)
    sites = page.tasks[0].sites
    assert sites is not None
    assert sites.layers is not None
    frame = sites.layers.frame.set_index("depth")
    assert frame.index.tolist() == ["first", "last"]
    named, robust = frame["site_named"], frame["robustness"]
    assert named["first"] < 0.7 < 0.9 < named["last"]
    assert robust["last"] < robust["first"]
    assert (frame["site_named_low"] < named).all()
    assert (frame["site_by_chance"] == 0.5).all()
    assert sites.problems == ["1 site(s) with fewer than 10 patients are left out of the layers."]
    (answer,) = sites.answers
    assert f"named in {named['first']:.3f} [" in answer.text
    assert f"] at first, the least, and in {named['last']:.3f} [" in answer.text
    assert f"index is highest with {robust['first']:.3f} [" in answer.text
    assert sites.figure is not None
    assert "n = 54 slides of 27 patients at 2 sites" in sites.figure.caption
    text = render(page)
    assert "Does cutting enc make it less of a site?" in text
    assert sites.figure.source in text
    names = {table.name for table in page.tables()}
    assert {"by_site", "site_in_layers"} <= names
    assert "site_in_layers" in {one.name for one in page.pictures()}


def test_of_equal_depths_the_deepest_is_named() -> None:
    same = LayerSites(Interval(0.9, 0.8, 1.0, 0.95, 27, 54), 0.5, Robustness())
    arms = [SimpleNamespace(arm=SimpleNamespace(key=ArmKey("enc", "", d, "a"))) for d in "abc"]
    layers = [LayerAtSites(cast(ArmResult, arm), same) for arm in arms]
    (answer,) = site_answers(LayersAtSites(layers, "", ()))
    assert answer.text == (
        "The site of unseen patients is named in 0.900 [0.800, 1.000] at c, the deepest cut, and "
        "no less in a shallower one; 0.50 is chance."
    )


def test_without_sites_the_page_is_silent(place: Path) -> None:
    pd.read_csv(place / "c.csv").drop(columns="site").to_csv(place / "plain.csv", index=False)
    page = page_of(place, cohort="plain.csv")
    assert page.tasks[0].sites is None
    assert 'id="sites"' not in render(page)


def test_sites_too_small_for_layers_are_named(place: Path) -> None:
    table = pd.read_csv(place / "c.csv")
    many = table.assign(site=table["patient_id"].str[1:].astype(int) // 5)
    many.to_csv(place / "many.csv", index=False)
    sites = page_of(place, cohort="many.csv").tasks[0].sites
    assert sites is not None
    assert len(sites.by_site.frame) == 6
    assert sites.layers is None
    assert sites.problems == [
        "enc: 0 site(s) with 10 patients or more, of 6: a probe cannot learn to name them."
    ]
