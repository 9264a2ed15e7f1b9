"""What a configuration becomes: commands, their order, and fold hygiene."""

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import yaml

from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.errors import ConfigError, EncoderError
from histotransfer_pl.records.grid import GridSettings, TissueSettings
from histotransfer_pl.runs.steps import Plan, Step, read_plan
from histotransfer_pl.study.config import Folds, Preparation, StoredFeatures, StudyConfig, Tuning
from histotransfer_pl.study.plan import check_hygiene, make_plan
from tests.study.conftest import make_config


def words(step: Step) -> dict[str, str]:
    """Settings of a command by name; every one of these commands is made of pairs."""
    rest = list(step.argv[1:])
    assert all(name.startswith("--") for name in rest[::2])
    return dict(zip(rest[::2], rest[1::2], strict=True))


def test_every_combination_is_fitted_and_tested_once(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    plan = make_plan(config)
    features = [("resnet18", "layer1"), ("resnet18", "layer4"), ("resnet18-random0", "layer4")]
    expected = Counter(
        (*feature, head, str(fold), str(seed))
        for feature, head, fold, seed in product(features, config.heads, range(3), (0, 1))
    )
    heads = {yaml.safe_dump(head): name for name, head in config.heads.items()}
    for kind in ("fit", "test"):
        found = Counter(
            (
                word["--data.encoder"],
                word["--data.depth"],
                heads[yaml.safe_dump(yaml.safe_load(word["--model.head"]))],
                word["--data.fold"],
                word["--seed_everything"],
            )
            for word in map(words, plan.of_kind(kind))
        )
        assert found == expected
    folders = [words(step)["--run_dir"] for step in plan.of_kind("fit")]
    assert len(set(folders)) == len(folders)


def test_test_repeats_the_settings_of_its_fit(tmp_path: Path) -> None:
    plan = make_plan(make_config(tmp_path, fit={"data": {"standardize": True}}))
    for step in plan.of_kind("test"):
        (need,) = step.needs
        assert plan[need].argv[1:] == step.argv[1:]
        assert step.argv[0] == "test"
        assert words(step)["--data.standardize"] == "true"


def test_attention_is_written_for_every_seed(tmp_path: Path) -> None:
    plan = make_plan(make_config(tmp_path))
    assert len(plan.of_kind("predict")) == len(plan.of_kind("fit"))
    assert not make_plan(make_config(tmp_path, attention=False)).of_kind("predict")


@pytest.mark.parametrize("name", ["../../up", "a/b", "..", "", "a\\b"])
def test_a_name_that_leaves_the_folder_of_studies_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no name of a folder in studies/"):
        make_config(tmp_path, name=name, study_dir=None)
    assert make_config(tmp_path, name=name).folder == tmp_path / "study"


def test_every_fit_is_tested_on_the_other_cohort(tmp_path: Path) -> None:
    there = {"external": tmp_path / "other.csv", "external_slides": tmp_path / "theirs"}
    plan = make_plan(make_config(tmp_path, **there, costs=True))
    steps = plan.of_kind("external")
    assert len(steps) == len(plan.of_kind("fit"))
    store = str(tmp_path / "study" / "external" / "store.zarr")
    for step in steps:
        extraction, fit = (plan[need] for need in step.needs)
        assert words(step) == {
            "--run_dir": words(fit)["--run_dir"],
            "--data.cohort": str(tmp_path / "other.csv"),
            "--data.store": store,
            "--output_dir": words(fit)["--run_dir"] + "/external",
        }
        assert step.argv[0] == "test"
        assert words(extraction)["--data.store"] == store
        assert words(extraction)["--data.slides"] == str(tmp_path / "theirs")
    ready = make_plan(make_config(tmp_path, **there, external_store=tmp_path / "s.zarr"))
    assert {step.needs for step in ready.of_kind("external")} == {
        (step.name,) for step in ready.of_kind("fit")
    }
    assert words(plan.of_kind("cost")[0])["--input_px"] == "224"
    with pytest.raises(ConfigError, match="external_store must name"):
        make_config(tmp_path, **there, features=[StoredFeatures("given", "last")])


def test_extraction_says_weights_depths_and_how_the_grid_differs(tmp_path: Path) -> None:
    grid = GridSettings(patch_px=50, tissue=TissueSettings(method="non_white"))
    encoder = EncoderConfig("resnet18", weights="w.pt", alias="mine", input_px=112, depths="all")
    config = make_config(tmp_path, encoders=[encoder], grid=grid, slides=Path("slides"))
    (step,) = make_plan(config).of_kind("extract")
    found = words(step)
    assert yaml.safe_load(found.pop("--model.depths")) == [
        "stem", "layer1", "layer2", "layer3", "layer4",
    ]  # fmt: skip
    assert found == {
        "--data.store": str(tmp_path / "study" / "store.zarr"),
        "--data.cohort": str(tmp_path / "cohort.csv"),
        "--data.slides": "slides",
        "--data.grid.patch_px": "50",
        "--data.grid.tissue.method": "non_white",
        "--model.encoder": "resnet18",
        "--model.weights": "w.pt",
        "--model.alias": "mine",
        "--model.input_px": "112",
    }
    assert "w.pt" in step.inputs


def tuned(tmp_path: Path, **settings: object) -> Plan:
    tuning = Tuning(k=8, head="attention", depth="layer1", **settings)  # type: ignore[arg-type]
    return make_plan(make_config(tmp_path, variants=["frozen", "topk", "bottom"], tuning=tuning))


def test_tuned_features_meet_only_the_fold_they_were_tuned_on(tmp_path: Path) -> None:
    plan = tuned(tmp_path)
    check_hygiene(plan)
    made = {words(s)["--model.alias"]: s for s in plan.of_kind("extract_tuned")}
    assert len(made) == 2 * 3  # variants by folds; random weights and seed 1 are not tuned
    used = [s for s in plan.of_kind("fit", "test") if "@" in words(s).get("--data.encoder", "")]
    assert {words(s)["--data.encoder"] for s in used} == set(made)
    for step in used:
        extraction = made[words(step)["--data.encoder"]]
        tune = plan[extraction.needs[0]]
        assert words(tune)["--data.fold"] == words(step)["--data.fold"]
        assert words(extraction)["--model.weights"].startswith(words(tune)["--run_dir"])


def test_tuning_starts_from_the_frozen_run_whose_attention_selects(tmp_path: Path) -> None:
    plan = tuned(tmp_path)
    for tune in plan.of_kind("finetune"):
        select = plan[tune.needs[0]]
        predict = plan[select.needs[0]]
        stage1 = words(predict)
        assert predict.kind == "predict"
        assert words(tune)["--model.stage1"] == stage1["--run_dir"] == words(select)["--run_dir"]
        assert words(tune)["--data.selection"] == words(select)["--name"]
        assert words(tune)["--data.fold"] == stage1["--data.fold"]
        assert stage1["--data.depth"] == "layer1"
        assert words(tune)["--model.head"] == stage1["--model.head"]
    rules = Counter(words(step)["--rule"] for step in plan.of_kind("select"))
    assert rules == {"attention": 3, "bottom": 3}


def test_an_encoder_tuned_otherwise_has_another_name_in_the_store(tmp_path: Path) -> None:
    def names(plan: Plan) -> set[str]:
        return {words(step)["--model.alias"] for step in plan.of_kind("extract_tuned")}

    first = names(tuned(tmp_path))
    assert names(tuned(tmp_path)) == first
    assert names(tuned(tmp_path, fit={"trainer": {"max_epochs": 3}})).isdisjoint(first)


def test_each_method_of_tuning_makes_runs_of_its_own_on_one_selection(tmp_path: Path) -> None:
    plan = tuned(tmp_path, methods=["full", "lora"])
    tunes = plan.of_kind("finetune")
    methods = [words(step).get("--model.tuning", "full") for step in tunes]
    assert methods.count("lora") == methods.count("full") == len(tunes) / 2
    assert len(plan.of_kind("select")) == len(tunes) / 2
    variants = {step.factors["variant"] for step in plan.of_kind("fit")}
    assert {"frozen", "topk", "topk+lora"} <= variants
    with pytest.raises(ConfigError, match=r"tuning.methods is \['frozen'\]"):
        tuned(tmp_path, methods=["frozen"])


def test_hygiene_check_finds_a_wrong_plan() -> None:
    steps = (
        Step("tune", "finetune", (), factors={"fold": 0}),
        Step("fit", "fit", (), ("tune",), factors={"fold": 1}),
    )
    with pytest.raises(ConfigError, match="fit needs tune, which belongs to fold 0"):
        check_hygiene(Plan("wrong", steps))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fit": {"data": {"fold": 1}}}, "fit sets data.fold, which the study sets"),
        ({"fit": {"model": {"head": "X"}}}, "fit sets model.head"),
        ({"tuning": Tuning(fit={"model": {"stage1": "x"}})}, "tuning.fit sets model.stage1"),
        ({"fit": {"data": {"class_path": "X", "init_args": {"fold": 0}}}}, "fit sets data.fold"),
        ({"fit": {"data": {"fold+": [2]}}}, "fit sets data.fold,"),
        ({"fit": {"data+": {"init_args.fold": 2}}}, "fit sets data.fold,"),
        ({"fit": {"model": {"init_args": {"head": "X"}}}}, "fit sets model.head"),
        ({"fit": {"data": None}}, "fit.data holds None, expected a mapping"),
        ({"fit": {"trainer": 3}}, "fit.trainer holds 3, expected a mapping"),
        ({"fit": {"data": {"class_path": "X", "init_args": 3}}}, "fit.data.init_args holds 3"),
        ({"tuning": Tuning(fit={"checkpoint": "x"})}, "tuning.fit.checkpoint holds 'x'"),
        ({"extract": {"model": "FeatureExtractor"}}, "extract.model holds 'FeatureExtractor'"),
        ({"extract": {"data": {"class_path": "X"}}}, "extract sets data.class_path"),
        ({"extract": {"data": {"grid": {"patch_px": 9}}}}, "extract sets data.grid"),
        ({"prepare": [Preparation("import 'x", [])]}, "prepare.command at place 1 is no command"),
        ({"heads": {"a": "AttentionHead"}}, "heads.a is 'AttentionHead'; expected class_path"),
        ({"heads": {"a": {"class_path": "AtentionHead"}}}, "did you mean AttentionHead"),
        ({"heads": {"a": {"class": "AttentionHead"}}}, "expected class_path and init_args"),
        ({"variants": ["frozen", "topk"], "tuning": Tuning(head="x")}, "tuning.head names 'x'"),
        ({"variants": ["frozen", "topk"], "tuning": Tuning(folds=[7])}, "tuning.folds names 7"),
    ],
)
def test_settings_that_cannot_be_planned(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(make_config(tmp_path, **settings))


def test_a_column_needs_to_be_told_which_folds() -> None:
    with pytest.raises(ConfigError, match=r"folds\.run is not given.* one number, such as \[0\]"):
        Folds(column="split")
    assert Folds(column="split", run=[0]).numbers == [0]


def test_an_unknown_depth_is_found_before_anything_runs(tmp_path: Path) -> None:
    encoders = [EncoderConfig("resnet18", depths=["layer9"])]
    with pytest.raises(EncoderError, match="layer9"):
        make_plan(make_config(tmp_path, encoders=encoders))


def test_names_that_become_the_same_file_are_refused(tmp_path: Path) -> None:
    heads = {name: {"class_path": "MeanPoolHead"} for name in ("a b", "a/b")}
    with pytest.raises(ConfigError, match="two steps are called"):
        make_plan(make_config(tmp_path, heads=heads))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoders": []}, "names no encoders and no features"),
        ({"heads": {}}, "names no heads"),
        ({"seeds": []}, "at least one each"),
        ({"seeds": [1, 1]}, "seeds holds 1 more than once"),
        ({"variants": ["topk"]}, "must hold frozen"),
        ({"encoders": [EncoderConfig("a", alias="x"), EncoderConfig("b", alias="x")]}, "holds x"),
    ],
)
def test_configurations_that_mean_nothing(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(tmp_path, **settings)


def test_preparations_run_first_and_imported_features_need_them(tmp_path: Path) -> None:
    config = StudyConfig(
        name="import",
        cohort=tmp_path / "cohort.csv",
        heads={"mean": {"class_path": "MeanPoolHead"}},
        features=[StoredFeatures("given", "last")],
        prepare=[Preparation("import --arrays 'my bags.npz'", [tmp_path / "cohort.csv"])],
        folds=Folds(n_folds=3, run=[1]),
    )
    plan = make_plan(config)
    assert plan.steps[0].argv == ("import", "--arrays", "my bags.npz")
    (fit,) = plan.of_kind("fit")
    assert fit.needs == (plan.steps[0].name,)
    assert words(fit)["--data.fold"] == "1"


def test_the_report_is_logged_where_the_runs_are(tmp_path: Path) -> None:
    (step,) = make_plan(make_config(tmp_path)).of_kind("report")
    assert "--boards" not in step.argv
    loggers = [{"class_path": "TensorBoardLogger"}, {"class_path": "MLFlowLogger"}]
    config = make_config(tmp_path, wandb=True, fit={"trainer": {"logger": loggers}})
    (step,) = make_plan(config).of_kind("report")
    assert step.argv[-4:] == ("--boards", "wandb", "tensorboard", "mlflow")


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = replace(tuned(tmp_path), created="today", note="painted", working_folder="/there")
    (tmp_path / "plan.json").write_text(plan.to_json())
    assert read_plan(tmp_path / "plan.json") == plan
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ConfigError, match="no plan of a study"):
        read_plan(tmp_path / "plan.json")
    with pytest.raises(ConfigError, match="give the folder of a study"):
        read_plan(tmp_path / "none.json")
