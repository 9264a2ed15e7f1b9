"""Sites through fit, test and report: folds that keep them apart, and the warning."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.data.sites import confounding
from histotransfer_pl.runs.record import load_run
from histotransfer_pl.store.importer import import_arrays
from tests.cli.conftest import Run


@pytest.fixture
def sites(cohort: Path) -> pd.Series:
    """Four hospitals of five patients each, none of which gives the label away."""
    table = pd.read_csv(cohort / "c.csv")
    number = table["patient_id"].str[1:].astype(int)
    table["hospital"] = "h" + (number // 2 % 4).astype(str)
    table.to_csv(cohort / "c.csv", index=False)
    return table.groupby("patient_id")["hospital"].first()


def parts_of(folder: Path) -> dict[str, set[str]]:
    """Patients of each part: what the run recorded, and whom it tested."""
    record = load_run(folder).record
    tested = pd.read_csv(folder / "test_predictions.csv")
    return {
        "train": set(record.train_patients),
        "validation": set(record.validation_patients),
        "test": set(tested["patient_id"]),
    }


KEEP = ["--data.split_by", "site", "--data.site", "hospital"]


@pytest.mark.parametrize(
    ("n_folds", "folds", "shares"),
    [(4, [0, 3], [1, 1, 2]), (3, [1], None)],
    ids=["leave one out", "preserved"],
)
def test_no_site_is_on_two_sides(
    run: Run,
    cohort: Path,
    sites: pd.Series,
    n_folds: int,
    folds: list[int],
    shares: list[int] | None,
) -> None:
    tested = []
    for fold in folds:
        name = ["--run_dir", str(fold), *KEEP, "--data.n_folds", str(n_folds)]
        name += ["--data.fold", str(fold)]
        assert run("fit", *name, epochs=1) == 0
        assert run("test", *name, epochs=1) == 0
        own = {part: set(sites[list(who)]) for part, who in parts_of(cohort / str(fold)).items()}
        assert sum(map(len, own.values())) == len(set.union(*own.values())) == 4
        if shares is not None:
            assert [len(own[part]) for part in ("test", "validation", "train")] == shares
        tested += sorted(own["test"])
        table = pd.read_csv(cohort / str(fold) / "test_predictions.csv")
        assert (table["site"] == table["patient_id"].map(sites)).all()
    assert len(set(tested)) == len(tested)


def test_a_label_that_the_site_gives_away_is_a_warning(
    run: Run, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(cohort / "c.csv", dtype={"label": str})
    number = table["patient_id"].str[1:].astype(int)
    table["scanner"] = np.where((table["label"] == "1") ^ (number == 3), "new", "old")
    table["lab"] = number // 2 % 2
    table.to_csv(cohort / "c.csv", index=False)
    found = confounding(table.assign(site=table["scanner"]))
    assert run("fit", "--data.site", "scanner", epochs=1) == 0
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "confounded" in line]
    assert said.startswith(
        f"label and site are confounded (effect {found.effect:.2f} of 1, p {found.p_value:.2g}, "
        "20 patients at 2 sites)"
    )
    assert found.effect == pytest.approx(0.905, abs=0.001)  # 1 of 20 patients is out of place
    assert run("fit", "--data.site", "lab", epochs=1) == 0
    assert "confounded" not in capsys.readouterr().err


def test_the_site_is_read_out_of_tcga_names_on_request(
    run: Run, cohort: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    hospitals = ["A2", "3C", "E9", "BH"]
    names = [f"TCGA-{hospitals[p // 2 % 4]}-{p:04}-01Z-00-DX1.0{p}" for p in range(24)]
    table = pd.DataFrame({"slide_id": names, "label": np.arange(24) % 2})
    table["patient_id"] = table["slide_id"].str[:12]
    table.to_csv(cohort / "c.csv", index=False)
    features = rng.normal(size=(72, 6)).astype(np.float32)
    import_arrays(cohort / "t.zarr", features, np.repeat(names, 3), "toy", "last")
    keep = ["--data.store", "t.zarr", "--data.split_by", "site", "--data.n_folds", "4"]
    assert run("fit", *keep, "--data.site", "tcga", epochs=1) == 0
    assert run("test", *keep, "--data.site", "tcga", epochs=1) == 0
    tested = pd.read_csv(cohort / "r" / "test_predictions.csv")
    assert tested["site"].nunique() == 1
    assert (tested["site"] == tested["slide_id"].str[5:7]).all()
    assert len(tested) == 6
    assert run("fit", *keep, epochs=1) == 1
    assert "split_by is site: give the column of the site with data.site" in capsys.readouterr().err


def test_sites_that_no_table_names_are_refused_in_a_line(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--data.site", "hospital", epochs=1) == 1
    assert "hospital" in capsys.readouterr().err
