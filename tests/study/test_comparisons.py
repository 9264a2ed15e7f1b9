"""Steps of similarity and knowledge gain."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.study.config import Folds, Pair, Probe, Tuning
from histotransfer_pl.study.plan import make_plan
from tests.study.conftest import make_config
from tests.study.test_plan import words

BLOCKS = ["stem", "layer1", "layer2", "layer3"]


def test_a_tuned_encoder_is_compared_on_test_slides_of_its_fold(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        encoders=[EncoderConfig("resnet18", depths=["layer3"], input_px=96)],
        variants=["frozen", "topk"],
        tuning=Tuning(folds=[2]),
        similarity=[Pair("resnet18", "tuned", {"data": {"n_patches": 64}})],
    )
    plan = make_plan(config)
    (step,) = plan.of_kind("similarity")
    (tune,) = plan.of_kind("finetune")
    found = words(step)
    assert tune.name in step.needs
    assert found["--data.part"] == "test"
    assert found["--data.fold"] == words(tune)["--data.fold"] == "2"
    assert found["--model.second.weights"].startswith(words(tune)["--run_dir"])
    # The tuned file ends at layer3, so the comparison does too.
    for side in ("first", "second"):
        assert yaml.safe_load(found[f"--model.{side}.depths"]) == BLOCKS
        assert found[f"--model.{side}.input_px"] == "96"
    assert found["--data.n_patches"] == "64"
    assert found["--output"] == step.outputs[0]


def test_tuned_means_tuned_on_top_k_whatever_comes_first(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        variants=["frozen", "random", "topk"],
        tuning=Tuning(folds=[0]),
        similarity=[Pair("resnet18", "tuned")],
    )
    (step,) = make_plan(config).of_kind("similarity")
    assert "-topk_joint-" in words(step)["--model.second.weights"]
    only_controls = replace(config, variants=["frozen", "random"])
    with pytest.raises(ConfigError, match="add topk to variants"):
        make_plan(only_controls)


def test_two_encoders_of_the_study_are_compared_at_all_depths(tmp_path: Path) -> None:
    pair = Pair("resnet18", "resnet18-random0")
    (step,) = make_plan(make_config(tmp_path, similarity=[pair])).of_kind("similarity")
    found = words(step)
    assert found["--model.second.weights"] == "random"
    assert "--model.first.depths" not in found
    assert step.needs == ("extract-resnet18", "extract-resnet18_random0")


def test_gain_on_tiles_needs_nothing_of_the_study(tmp_path: Path) -> None:
    probe = Probe("resnet18", options={"tiles": "tiles.csv", "label": "tumour"}, name="on_tiles")
    (step,) = make_plan(make_config(tmp_path, gain=[probe])).of_kind("gain")
    found = words(step)
    assert step.needs == ()
    assert found["--tiles"] == "tiles.csv"
    assert yaml.safe_load(found["--random_seeds"]) == [0, 1, 2, 3, 4]
    assert Path(found["--output"]).name == "on_tiles.csv"


def test_gain_on_slides_makes_its_random_networks_as_on_tiles(tmp_path: Path) -> None:
    probe = Probe("resnet18", [3, 4, 5, 6, 7], {"random_batchnorm": "both"})
    config = make_config(
        tmp_path, gain=[probe], folds=Folds(n_folds=3), slides=Path("slides"),
        lost_slides="leave_out",
    )  # fmt: skip
    plan = make_plan(config)
    (step,) = plan.of_kind("gain")
    found = words(step)
    own = words(plan["extract-resnet18"])
    assert found["--encoder.depths"] == own["--model.depths"]
    assert found["--store"] == own["--data.store"]
    assert step.needs == ("extract-resnet18",)
    assert step.inputs == (str(config.cohort),)
    # not extracted: features of the store would have the initial BatchNorm statistics
    assert "--random" not in found
    assert yaml.safe_load(found["--random_seeds"]) == [3, 4, 5, 6, 7]
    assert found["--random_batchnorm"] == "both"
    assert found["--images"] == "slides"
    assert found["--strict"] == "false"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"similarity": [Pair("resnet50", "random")]}, "similarity.first names 'resnet50'"),
        ({"similarity": [Pair("resnet18", "resnet50")]}, "similarity.second names 'resnet50'"),
        ({"similarity": [Pair("resnet18", "tuned")]}, "this study does not tune it"),
        ({"similarity": [Pair("resnet18", "random", {"output": "x"})]}, "options sets output"),
        ({"gain": [Probe("resnet50")]}, "gain.encoder names 'resnet50'"),
        ({"gain": [Probe("resnet18", options={"store": "x"})]}, "gain.options sets store"),
    ],
)
def test_comparisons_that_cannot_be_planned(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(make_config(tmp_path, **settings))
