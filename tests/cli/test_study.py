"""`study` through the command line, on bags of plain arrays."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from histotransfer_pl.cli.main import main
from histotransfer_pl.cli.study import accepted
from histotransfer_pl.runs.steps import read_plan
from histotransfer_pl.runs.study import load_study
from histotransfer_pl.study.config import StoredFeatures, StudyConfig


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 bags of which one class has a shifted instance."""
    generator = np.random.default_rng(0)
    bag = np.repeat(np.arange(30), 5)
    y = (np.arange(30) % 2).astype(np.int8)
    values = generator.normal(size=(150, 6)).astype(np.float32)
    values[::5] += 3 * y[:, None]
    path = tmp_path_factory.mktemp("bags") / "bags.npz"
    np.savez(path, X=values, bag=bag, y=y)
    return path


@pytest.fixture
def config(bags: Path, tmp_path: Path) -> Path:
    """A study of one head, three folds and one seed."""
    folder = tmp_path / "study"
    cohort = folder / "cohort.csv"
    path = tmp_path / "study.yaml"
    settings = {
        "name": "bags",
        "study_dir": str(folder),
        "prepare": [
            {
                "command": f"import --arrays {bags} --store {folder / 'store.zarr'} "
                f"--cohort {cohort}",
                "outputs": [str(cohort)],
            }
        ],
        "cohort": str(cohort),
        "features": [{"encoder": "given", "depth": "last"}],
        "heads": {"mean": {"class_path": "MeanPoolHead", "init_args": {"hidden": []}}},
        "folds": {"n_folds": 3},
        "attention": False,
        "report": False,
        "fit": {"trainer": {"max_epochs": 2}, "data": {"batch_size": 4}},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_study_runs_stops_at_what_is_done_and_grows(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    assert main(["study", "--config", str(config)]) == 0
    said = capfd.readouterr().out
    assert "7 to run (1 prepare, 3 fit, 3 test)" in said
    assert "[7/7] test-given-last-frozen-mean-f2-s0  done" in said
    assert "cohort: 30 slides" not in said  # what the steps say is in their logs
    assert (
        "cohort: 30 slides"
        in (folder / "logs" / "fit-given-last-frozen-mean-f0-s0.log").read_text()
    )
    plan = read_plan(folder / "plan.json")
    for step in plan:
        assert all(Path(name).exists() for name in step.outputs)
    tested = [pd.read_csv(step.outputs[0]) for step in plan.of_kind("test")]
    assert sorted(pd.concat(tested)["slide_id"]) == sorted(range(30))
    results = pd.read_csv(folder / "report" / "tables" / "results.csv")
    assert results["n_slides"].tolist() == [30]
    assert f"{results['auroc'][0]:.3f} [" in said

    before = [step.stat().st_mtime_ns for step in sorted((folder / "done").iterdir())]
    assert main(["study", "--config", str(config)]) == 0
    assert "7 of 7 steps are done" in capfd.readouterr().out
    assert [step.stat().st_mtime_ns for step in sorted((folder / "done").iterdir())] == before

    assert main(["study", "--config", str(config), "--folds.run", "[0, 1, 2]", "--dry_run"]) == 0
    assert "0 to run" in capfd.readouterr().out
    assert main(["study", "--config", str(config), "--seeds", "[0, 1]", "--dry_run"]) == 0
    said = capfd.readouterr().out
    assert "13 steps (1 prepare, 6 fit, 6 test), 6 to run" in said
    assert "needs fit-given-last-frozen-mean-f2-s1" in said


def test_tasks_go_on_where_a_local_run_stopped_and_write_the_same_tables(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    command = ["study", "--config", str(config)]
    assert main(command) == 0
    table = folder / "report" / "tables" / "results.csv"
    before = table.read_bytes()
    table.unlink()
    for name in ("done/fit-given-last-frozen-mean-f1-s0", "done/test-given-last-frozen-mean-f2-s0"):
        (folder / name).unlink()
    capfd.readouterr()
    assert main([*command, "--status"]) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[2].split() == ["all", "4", "0", "0", "3"]
    assert main([*command, "--submit", "local", "--tasks", "1"]) == 0
    assert "bags: 3 of 7 steps to run, in 1 tasks" in capfd.readouterr().out
    assert table.read_bytes() == before
    assert main(command) == 0
    assert "7 of 7 steps are done" in capfd.readouterr().out


def test_submit_without_slurm_is_one_line(
    config: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["study", "--config", str(config), "--submit", "slurm"]) == 1
    said = capfd.readouterr().err
    assert said.startswith("error: --submit slurm needs srun and sbatch")
    assert said.count("\n") == 1
    assert main(["study", "--config", str(config), "--resources.fit.gpu", "1", "--status"]) == 1
    assert "resources.fit has no setting 'gpu'" in capfd.readouterr().err


def test_a_failed_step_fails_the_study_and_keeps_the_rest(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heads = (
        '{"mean": {"class_path": "MeanPoolHead"}, '
        '"odd": {"class_path": "MeanPoolHead", "init_args": {"dropout": 7}}}'
    )
    arguments = ["--config", str(config), "--heads", heads, "--folds.run", "[0]"]
    assert main(["study", *arguments]) == 1
    captured = capfd.readouterr()
    assert "failed: fit-given-last-frozen-odd-f0-s0, see" in captured.err
    assert "1 steps wait for what failed" in captured.err
    assert "dropout is 7" in captured.out
    states = load_study(tmp_path / "study").states
    assert states["test-given-last-frozen-mean-f0-s0"].state == "done"
    assert states["test-given-last-frozen-odd-f0-s0"].state == "waiting"


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


def test_a_study_that_was_killed_ends_with_the_same_report(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_in_the_middle(argv: Sequence[str]) -> int:
        if argv[0] == "fit" and "-f1-" in argv[2] and not Path(argv[2]).exists():
            # a fit that came to its second epoch of two
            main([*argv, "--trainer.max_epochs", "1"])
            raise Killed
        if argv[0] == "report" and not Path("study/report/tables").exists():
            main(argv)
            Path("study/report/index.html").unlink()
            raise Killed
        return main(argv)

    settings = yaml.safe_load(config.read_text())
    command = settings["prepare"][0]["command"]
    folder = str(tmp_path / "study")
    settings["prepare"][0] = {
        "command": command.replace(folder, "study"), "outputs": ["study/cohort.csv"]
    }  # fmt: skip
    settings |= {"study_dir": "study", "cohort": "study/cohort.csv", "report": True}
    pages = {}
    for name, runner, kills in (("whole", main, 0), ("killed", killed_in_the_middle, 2)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Path("study.yaml").write_text(yaml.safe_dump(settings))
        monkeypatch.setattr("histotransfer_pl.cli.study.main", runner)
        for _ in range(kills):
            with pytest.raises(Killed):
                main(["study", "--config", "study.yaml"])
        assert main(["study", "--config", "study.yaml"]) == 0
        created = json.loads(Path("study/plan.json").read_text())["created"]
        text = Path("study/report/index.html").read_text()
        pages[name] = text.replace(created, "now").replace(str(tmp_path / name), "here")
    assert pages["killed"] == pages["whole"]
    tables = {
        name: {
            path.name: path.read_bytes()
            for path in (tmp_path / name / "study" / "report" / "tables").iterdir()
        }
        for name in pages
    }
    assert {"arms.csv", "results.csv", "splits.csv"} <= set(tables["whole"])
    assert tables["killed"] == tables["whole"]


def test_going_on_keeps_the_date_of_the_plan_and_a_change_renews_it(
    config: Path, tmp_path: Path
) -> None:
    path = tmp_path / "study" / "plan.json"

    def created(*words: str) -> str:
        snakefile = ["--snakefile", str(tmp_path / "Snakefile")]
        assert main(["study", "--config", str(config), *snakefile, *words]) == 0
        plan = json.loads(path.read_text())
        path.write_text(json.dumps({**plan, "created": "long ago"}))
        return str(plan["created"])

    assert created() != "long ago"
    assert created() == "long ago"
    assert created("--seeds", "[1]") != "long ago"
    path.write_text("{")
    assert created() != "long ago"


def test_too_few_patients_for_a_fold_fail_and_the_report_says_so(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folds = ["--folds.n_folds", "40", "--folds.run", "[0]", "--report", "true"]
    assert main(["study", "--config", str(config), *folds]) == 1
    assert "40 folds" in capfd.readouterr().out
    page = (tmp_path / "study" / "report" / "index.html").read_text()
    assert "This study is not complete: 1 step failed, 1 is still to run" in page
    assert "No run has test predictions yet" in page
    assert "40 folds" in page


def test_what_the_fits_will_refuse_of_the_table_is_said_before_anything_runs(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "named.csv"
    classes = ("lung_aca", "lung_scc")
    rows = [(f"s{i}", f"p{i}", classes[i % 2]) for i in range(12)]
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "label"]).to_csv(table, index=False)
    named = ["study", "--config", str(config), "--cohort", str(table)]
    assert main(named) == 1
    captured = capfd.readouterr()
    assert "fit.data.positive in a study" in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not (tmp_path / "study").exists()
    config.write_text(config.read_text().replace(str(tmp_path / "study/cohort.csv"), str(table)))
    assert main(["doctor", "--config", str(config)]) == 1
    assert "fit.data.positive in a study" in capfd.readouterr().out


def test_a_dry_run_prints_commands_and_writes_nothing(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "--config", str(config), "--dry_run"]) == 0
    said = capfd.readouterr().out
    assert said.count("\npython -m histotransfer_pl ") == 7
    assert not (tmp_path / "study").exists()


def test_classes_of_other_verbs_are_passed_on_as_they_stand(
    config: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    optimizer = {"class_path": "torch.optim.AdamW"}
    stop = {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": "val/loss"},
    }
    settings = yaml.safe_load(config.read_text())
    settings["fit"] |= {"model": {"optimizer": optimizer}}
    settings["fit"]["trainer"]["callbacks"] = [stop]
    settings["heads"]["mean"]["class_path"] = "histotransfer_pl.models.heads.MeanPoolHead"
    config.write_text(yaml.safe_dump(settings))
    # One setting is changed, and its neighbours stay.
    changes = ["--fit.trainer.max_epochs", "7", "--heads.mean.init_args.hidden=[4]"]
    assert main(["study", "--config", str(config), *changes, "--dry_run"]) == 0
    said = capfd.readouterr().out
    (fit, *_) = [line for line in said.splitlines() if " fit " in line]
    words = shlex.split(fit)
    given = {name: words[words.index(f"--{name}") + 1] for name in (
        "model.optimizer", "trainer.callbacks", "trainer.max_epochs", "model.head"
    )}  # fmt: skip
    assert json.loads(given["model.optimizer"]) == optimizer
    assert json.loads(given["trainer.callbacks"]) == [stop]
    assert given["trainer.max_epochs"] == "7"
    assert json.loads(given["model.head"])["init_args"] == {"hidden": [4]}


def test_changes_go_into_classes_and_lists(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["fit"]["model"] = {"optimizer": {"class_path": "torch.optim.AdamW"}}
    settings["fit"]["trainer"]["callbacks"] = [{"class_path": "A"}]
    config.write_text(yaml.safe_dump(settings))
    changes = ["--fit.model.optimizer.lr", "1e-4", "--heads.mean.hidden", "[4]"]
    changes += ["--fit.trainer.callbacks+", "B", "--fit.trainer.callbacks+={class_path: C}"]
    assert main(["study", "--config", str(config), *changes, "--dry_run"]) == 0
    given = first_fit(capfd.readouterr().out)
    assert json.loads(given["--model.optimizer"])["init_args"] == {"lr": 1e-4}
    assert json.loads(given["--model.head"])["init_args"] == {"hidden": [4]}
    assert json.loads(given["--trainer.callbacks"]) == [
        {"class_path": "A"},
        "B",
        {"class_path": "C"},
    ]


def first_fit(said: str) -> dict[str, str]:
    """Settings of the first fit of a dry run."""
    words = shlex.split(next(line for line in said.splitlines() if " fit " in line))[4:]
    return dict(zip(words[::2], words[1::2], strict=True))


def test_several_files_are_merged_key_by_key(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(
        "fit: {trainer: {precision: bf16-mixed}, model: {rate: 1e-4}}\n"
        "tuning.fit: {trainer: {max_epochs: 9}}\n"
        "heads: {mean: {init_args: {dropout: 0.5}}, attention: {class_path: AttentionHead}}\n"
        "folds: {split_seed: 3}\n"
    )
    files = ["--config", str(config), f"--config={more}"]
    snakefile = ["--snakefile", str(tmp_path / "Snakefile")]
    assert main(["study", *files, "--fit.data.batch_size", "2", *snakefile]) == 0
    found = yaml.safe_load((tmp_path / "study" / "study.yaml").read_text())
    assert found["fit"] == {
        "trainer": {"max_epochs": 2, "precision": "bf16-mixed"},
        "data": {"batch_size": 2},
        "model": {"rate": 1e-4},
    }
    assert found["heads"] == {
        "mean": {"class_path": "MeanPoolHead", "init_args": {"hidden": [], "dropout": 0.5}},
        "attention": {"class_path": "AttentionHead"},
    }
    assert found["tuning"]["fit"] == {"trainer": {"max_epochs": 9}}
    assert (found["folds"]["n_folds"], found["folds"]["split_seed"]) == (3, 3)
    capfd.readouterr()
    whole = ["--fit", "{trainer: {max_epochs: 5}}", "--dry_run"]
    assert main(["study", *files, *whole]) == 0
    given = first_fit(capfd.readouterr().out)
    assert given["--trainer.max_epochs"] == "5"
    assert "--trainer.precision" not in given


def test_tuned_extractions_may_lose_slides_too(tmp_path: Path) -> None:
    heads = {"mean": {"class_path": "MeanPoolHead"}}
    config = StudyConfig(
        name="x", cohort=tmp_path, heads=heads, features=[StoredFeatures("given", "last")]
    )
    assert accepted(config) == {}
    tolerant = replace(config, lost_slides="leave_out")
    assert accepted(tolerant) == {"extract": 3, "extract_tuned": 3}


def test_a_snakefile_comes_with_the_plan(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "Snakefile"
    assert main(["study", "--config", str(config), "--snakefile", str(target)]) == 0
    assert "7 rules" in capfd.readouterr().out
    assert target.read_text().count("\nrule ") == 7 + 1
    assert len(read_plan(tmp_path / "study" / "plan.json")) == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seds", "[1]"], "no setting --seds; did you mean --seeds?"),
        (["--variants", "[topk]"], "variants must hold frozen"),
        (["--fit", '{"data": {"fold": 1}}'], "fit sets data.fold"),
        (["--fit.trainer.max_epochs", "--dry_run"], "--fit.trainer.max_epochs has no value"),
        (["--fit.trainer.max_epochs.x", "1"], "max_epochs holds 2, no settings of its own"),
        (["--fit.data.fold+", "2"], "fit sets data.fold"),
        (["--fit.data.init_args.fold", "2"], "fit sets data.fold"),
        (["--fit.data.x", "{a"], "--fit.data.x has '{a', expected YAML"),
        (["--fit.data.x", "!!set {a}"], "data.x holds {'a'}, expected words"),
        (["--heads.attention", "AttentionHead"], "heads.attention is 'AttentionHead'; expected"),
        (["--heads.mean", "3"], "heads.mean is 3; expected class_path"),
        (["--prepare", '[{command: "a \'b", outputs: []}]'], "place 1 is no command line"),
        (["--folds.column", "split"], "folds.run is not given"),
        (["--heads", '{"a": {"class_path": "MeanPolHead"}}'], "did you mean MeanPoolHead?"),
    ],
)
def test_mistakes_are_one_line(
    config: Path, words: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["study", "--config", str(config), *words])
    except SystemExit as error:
        code = int(str(error.code))
    captured = capfd.readouterr()
    assert code in (1, 2)
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
