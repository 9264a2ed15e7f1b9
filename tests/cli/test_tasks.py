"""Every kind of target from its table to predictions, a model file and `apply`, on stored bags."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.cli.main import main
from histotransfer_pl.runs.model_file import load_model
from histotransfer_pl.store.importer import import_arrays

PATIENTS = 60
QUIET = ("--trainer.enable_progress_bar", "false")
COMMON = (
    *("--data.store", "s.zarr", "--data.n_folds", "3", "--data.batch_size", "10"),
    *("--model.head", "MeanPoolHead", "--model.head.hidden", "[]"),
    *("--model.optimizer", "Adam", "--model.optimizer.lr", "0.03"),
)


@dataclass(frozen=True)
class Case:
    """A task on the same bags.

    Attributes:
        data: Options of the target.
        watched: Its metric.
        least: What it reaches on the test part; shuffled targets stay below it.
        columns: Columns of `test_predictions.csv`, after slide, patient and part.
        model: Further options.
    """

    data: tuple[str, ...]
    watched: str
    least: float
    columns: tuple[str, ...]
    model: tuple[str, ...] = ()


SURVIVAL = ("--data.task", "survival", "--data.target", "[months, died]")
CASES = {
    "cox": Case(SURVIVAL, "c_index", 0.65, ("time", "event", "risk")),
    "hazard": Case(SURVIVAL, "c_index", 0.65, ("time", "event"), ("--model.loss", "hazard")),
    "mse": Case(
        ("--data.task", "regression", "--data.target", "score"), "r2", 0.5, ("value", "predicted")
    ),
    "huber": Case(
        ("--data.task", "regression", "--data.target", "score"),
        "r2",
        0.5,
        ("value", "predicted"),
        ("--model.loss", "huber"),
    ),
    "multilabel": Case(
        ("--data.task", "multilabel", "--data.target", "[er, pr]"),
        "macro_auroc",
        0.85,
        ("label_er", "label_pr", "p_er", "p_pr"),
    ),
    "ordinal": Case(
        ("--data.task", "ordinal", "--data.target", "grade", "--data.classes", "[low, mid, high]"),
        "quadratic_kappa",
        0.6,
        ("label", "predicted", "p_low", "p_mid", "p_high"),
    ),
}
TASKS = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture
def bags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two slides per patient, whose first two features are what the targets are made of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, PATIENTS))
    time, end = rng.exponential(24 * np.exp(-2 * first)), rng.exponential(40, PATIENTS)
    rows, features, owners = [], [], []
    for p in range(PATIENTS):
        for i in range(1 + (p % 4 == 0)):
            values = rng.normal(size=(6, 5)).astype(np.float32)
            values[:, 0] += 3 * first[p]
            values[:, 1] += 3 * second[p]
            features.append(values)
            owners += [f"p{p:02}s{i}"] * 6
            rows.append(
                {
                    "slide_id": f"p{p:02}s{i}",
                    "patient_id": f"p{p:02}",
                    "months": round(min(time[p], end[p]), 2) + 0.01,
                    "died": int(time[p] <= end[p]),
                    "score": round(50 + 9 * first[p], 2),
                    "er": int(first[p] > 0),
                    "pr": "" if p % 7 == 0 else int(second[p] > 0),
                    "grade": ["low", "mid", "high"][int(np.digitize(first[p], [-0.5, 0.5]))],
                }
            )
    import_arrays(tmp_path / "s.zarr", np.concatenate(features), np.array(owners), "toy", "last")
    pd.DataFrame(rows).to_csv("c.csv", index=False)
    return tmp_path


def fit(case: Case, *arguments: str, run: str = "r", epochs: int = 12) -> int:
    call = ["fit", "--run_dir", run, "--data.cohort", "c.csv", *COMMON, *case.data, *case.model]
    return main([*call, *QUIET, "--trainer.max_epochs", str(epochs), *arguments])


def metrics_of(run: str = "r") -> dict[str, float]:
    assert main(["test", "--run_dir", run, *QUIET]) == 0
    found: dict[str, float] = json.loads(Path(run, "test_metrics.json").read_text())
    return found


@TASKS
def test_a_task_runs_from_table_to_apply(
    bags: Path, case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(case) == 0
    found = metrics_of()
    assert found[case.watched] > case.least
    assert found[f"{case.watched}_low"] < found[case.watched] < found[f"{case.watched}_high"]
    table = pd.read_csv("r/test_predictions.csv")
    assert table.columns[:3].tolist() == ["slide_id", "patient_id", "part"]
    assert table.columns[3 : 3 + len(case.columns)].tolist() == list(case.columns)
    assert f"{len(table)} slides of {table['patient_id'].nunique()} patients" in (
        capsys.readouterr().out
    )
    assert main(["predict", "--run_dir", "r", *QUIET]) == 0
    everyone = pd.read_csv("r/predictions.csv").set_index("slide_id")
    assert len(everyone) == 75
    assert main(["package", "--run_dir", "r", "--out", "m.safetensors"]) == 0
    assert main(["apply", "--model", "[m.safetensors]", "--store", "s.zarr"]) == 0
    applied = pd.read_csv("applied/predictions.csv").set_index("slide_id")
    columns = load_model("m.safetensors").outcome.columns
    for name in columns:
        shown = name if name in applied else name.replace("p_", "prob_")
        np.testing.assert_allclose(applied[shown], everyone.loc[applied.index, name], atol=1e-5)
    assert Path("applied/index.html").is_file()


@pytest.mark.parametrize("case", [CASES[name] for name in ("cox", "mse", "multilabel")])
def test_targets_that_say_nothing_are_not_learnt(bags: Path, case: Case) -> None:
    table = pd.read_csv("c.csv")
    names = [str(name) for name in table if name not in ("slide_id", "patient_id")]
    own = table.drop_duplicates("patient_id").set_index("patient_id")[names]
    shuffled = own.sample(frac=1, random_state=2).set_axis(own.index)
    table[names] = shuffled.loc[table["patient_id"]].to_numpy()
    table.to_csv("c.csv", index=False)
    assert fit(case, epochs=8) == 0
    assert metrics_of()[case.watched] < case.least - 0.03


def test_a_patient_is_a_bag_of_every_task(bags: Path) -> None:
    for name in ("cox", "mse", "multilabel"):
        case = CASES[name]
        assert fit(case, "--data.bag", "patient", run=name) == 0
        assert metrics_of(name)[case.watched] > case.least - 0.1
        table = pd.read_csv(f"{name}/test_predictions.csv")
        assert table["patient_id"].is_unique
        assert "slide_id" not in table


def test_another_cohort_is_tested_in_its_own_columns(bags: Path) -> None:
    assert fit(CASES["mse"]) == 0
    table = pd.read_csv("c.csv")
    table = table.assign(patient_id="q" + table["patient_id"], points=table["score"])
    table.drop(columns="score").head(12).to_csv("new.csv", index=False)
    call = ["test", "--run_dir", "r", "--output_dir", "o", *QUIET, "--data.cohort", "new.csv"]
    assert main([*call, "--data.target", "points"]) == 0
    assert len(pd.read_csv("o/test_predictions.csv")) == 12


def test_the_models_of_folds_are_an_ensemble(bags: Path) -> None:
    for fold in ("0", "1"):
        assert fit(CASES["cox"], "--data.fold", fold, run=f"r{fold}", epochs=2) == 0
    call = ["apply", "--store", "s.zarr", "--pictures", "false"]
    assert main([*call, "--model", "[r0, r1]", "--out", "both"]) == 0
    each = []
    for fold in ("0", "1"):
        assert main([*call, "--model", f"[r{fold}]", "--out", f"o{fold}"]) == 0
        each.append(pd.read_csv(f"o{fold}/predictions.csv")["risk"].to_numpy())
    both = pd.read_csv("both/predictions.csv")
    np.testing.assert_allclose(both["risk"], np.mean(each, axis=0))
    np.testing.assert_allclose(both["sd_risk"], np.std(each, axis=0, ddof=1))
    assert "votes" not in both


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main([*arguments, *QUIET]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "rror" in line]
    assert len(errors) == 1
    return errors[0]


def test_a_model_of_one_task_is_not_tested_on_another(
    bags: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(CASES["cox"], epochs=1) == 0
    call = ["test", "--run_dir", "r", "--output_dir", "o"]
    said = refused([*call, *CASES["mse"].data], capsys)
    assert "the model predicts months, died (survival), but data.task is regression" in said
    said = refused(["predict", *call[1:], *CASES["multilabel"].data], capsys)
    assert "the model predicts months, died (survival), but data.task is multilabel" in said
    assert fit(CASES["multilabel"], epochs=1, run="m") == 0
    table = pd.read_csv("c.csv")
    table = table.assign(patient_id="q" + table["patient_id"], her2=table["er"])
    table.to_csv("new.csv", index=False)
    call = ["test", "--run_dir", "m", "--output_dir", "o", "--data.cohort", "new.csv"]
    said = refused([*call, "--data.target", "[er, her2]"], capsys)
    assert "data.target is er, her2, but the model predicts er, pr" in said


def test_a_fold_without_an_event_is_one_line(
    bags: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv("c.csv")
    table["died"] = (table["patient_id"] < "p02").astype(int)
    table.to_csv("c.csv", index=False)
    call = ["fit", "--run_dir", "r", "--data.cohort", "c.csv", *COMMON, *CASES["cox"].data]
    assert "group 'event' has 2 patient(s), but 3 folds need as many" in refused(call, capsys)
    table["part"] = np.where(table["patient_id"] < "p20", "train", "validation")
    table.to_csv("c.csv", index=False)
    said = refused([*call, "--data.fold_column", "part"], capsys)
    assert "the validation part (50 slides) has no slide with an event" in said


def test_patches_have_no_survival_of_their_own(
    bags: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["fit", "--run_dir", "r", "--data.cohort", "c.csv", *COMMON, *CASES["cox"].data]
    assert "patches have no survival of their own: set beta to 0" in refused(
        [*call, "--model.beta", "0.5"], capsys
    )


def test_an_interrupted_fit_goes_on_with_its_own_metric(bags: Path) -> None:
    assert fit(CASES["cox"], run="whole", epochs=4) == 0
    assert fit(CASES["cox"], run="parts", epochs=2) == 0
    assert fit(CASES["cox"], "--ckpt_path", "last", run="parts", epochs=4) == 0
    whole, parts = (pd.read_csv(f"{r}/metrics/fit/metrics.csv") for r in ("whole", "parts"))
    np.testing.assert_array_equal(
        whole["val/c_index"].dropna().to_numpy(), parts["val/c_index"].dropna().to_numpy()
    )
    best = [load_model(name) for name in ("whole", "parts")]
    assert all(
        (a == b).all()
        for a, b in zip(
            best[0].head.state_dict().values(), best[1].head.state_dict().values(), strict=True
        )
    )


def test_covariates_are_learnt_and_asked_for(
    bags: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv("c.csv")
    rng = np.random.default_rng(3)
    lift = dict(zip(table["patient_id"], 20 * rng.integers(0, 2, len(table)), strict=True))
    table["smoker"] = [{0: "no", 20: "yes"}[lift[p]] for p in table["patient_id"]]
    table["score"] += table["patient_id"].map(lift)
    table.to_csv("c.csv", index=False)
    own = ("--data.covariates", "[smoker]", "--data.standardize", "true")
    found = {}
    for run, more in {
        "without": (),
        "with": own,
        "alone": (*own, "--model.head", "CovariatesOnlyHead"),
    }.items():
        assert fit(CASES["mse"], *more, run=run, epochs=20) == 0
        found[run] = metrics_of(run)["r2"]
    assert found["with"] > max(found["without"], found["alone"]) + 0.1
    assert main(["predict", "--run_dir", "with", *QUIET]) == 0
    expected = pd.read_csv("with/predictions.csv").set_index("slide_id")["predicted"]
    assert main(["package", "--run_dir", "with", "--out", "m.safetensors"]) == 0
    call = ["apply", "--model", "[m.safetensors]", "--store", "s.zarr", "--pictures", "false"]
    assert main([*call, "--slides", "c.csv"]) == 0
    applied = pd.read_csv("applied/predictions.csv").set_index("slide_id")["predicted"]
    np.testing.assert_allclose(applied, expected[applied.index], atol=1e-3)
    assert main([*call, "--out", "o"]) == 1
    assert "reads the covariates smoker: give a CSV table" in capsys.readouterr().err
    table.drop(columns="smoker").to_csv("bare.csv", index=False)
    assert main([*call, "--out", "o", "--slides", "bare.csv"]) == 1
    assert "but the table has no column smoker" in capsys.readouterr().err
