"""Settings as words of a command line, read back by the real parser."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from lightning import LightningDataModule

from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.study.options import merge, options, override


def test_the_parser_reads_back_what_was_written() -> None:
    settings: dict[str, Any] = {
        "trainer": {"max_epochs": 3, "precision": "bf16-mixed", "callbacks": [{"a": [1, "x y"]}]},
        "data": {"standardize": True, "max_patches": None, "rate": 1e-05},
    }
    parser = ArgumentParser(exit_on_error=False)
    for group, values in settings.items():
        for key in values:
            parser.add_argument(f"--{group}.{key}", type=Any)
    assert parser.parse_args(options(settings)).as_dict() == settings


def test_a_class_stays_one_value() -> None:
    head = {"class_path": "MeanPoolHead", "init_args": {"hidden": []}}
    assert options({"model": {"head": head}}) == [
        "--model.head",
        '{"class_path": "MeanPoolHead", "init_args": {"hidden": []}}',
    ]
    assert options({"slides": Path("a b")}) == ["--slides", "a b"]


def test_a_named_class_leaves_what_the_plan_says_of_the_section() -> None:
    name = f"{FeatureDataModule.__module__}.{FeatureDataModule.__name__}"
    data = {"class_path": name, "init_args": {"batch_size": 8}, "num_workers": 1}
    words = options({"data": data})
    assert words == ["--data", name, "--data.batch_size", "8", "--data.num_workers", "1"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    parser.set_defaults({"data": {"class_path": name}})
    plan = options({"data": {"store": "s", "cohort": "c", "encoder": "e", "depth": "d", "fold": 2}})
    found = parser.parse_args([*plan, *words[:4]]).data.init_args
    assert (str(found.store), found.fold, found.batch_size) == ("s", 2, 8)
    assert options({"model": {"class_path": "A", "init_args": None}}) == ["--model", "A"]


@pytest.mark.parametrize("value", [date(2020, 1, 1), {1, 2}, [b"x"]])
def test_what_is_no_json_is_refused_by_name(value: object) -> None:
    with pytest.raises(ConfigError, match=r"data\.day holds .* put it in quotes"):
        options({"data": {"day": value}})


def test_a_change_means_the_arguments_of_a_named_class() -> None:
    settings: dict[str, Any] = {"optimizer": {"class_path": "AdamW", "init_args": {"eps": 1}}}
    override(settings, "optimizer.lr", 0.1)
    assert settings["optimizer"]["init_args"] == {"eps": 1, "lr": 0.1}
    override(settings, "optimizer.class_path", "SGD")
    assert settings["optimizer"]["class_path"] == "SGD"
    bare: dict[str, Any] = {"class_path": "X"}
    override(bare, "net.width", 3)
    assert bare == {"class_path": "X", "init_args": {"net": {"width": 3}}}


def test_a_plus_adds_to_a_list() -> None:
    settings: dict[str, Any] = {"trainer": {"callbacks": ["a"]}}
    override(settings, "trainer.callbacks+", "b")
    override(settings, "trainer.callbacks+", ["c", "d"])
    assert settings == {"trainer": {"callbacks": ["a", "b", "c", "d"]}}
    empty: dict[str, Any] = {"callbacks": None}
    override(empty, "callbacks+", "a")
    override(empty, "callbacks+", "b")
    assert empty["callbacks+"] == ["a", "b"]
    with pytest.raises(ConfigError, match="epochs holds 2, no list to add to"):
        override({"epochs": 2}, "epochs+", 3)


def test_merging_goes_key_by_key_but_not_into_another_class() -> None:
    first = {"a": {"x": 1, "y": [1]}, "head": {"class_path": "A", "init_args": {"n": 1}}}
    assert merge(first, {"a": {"y": [2]}, "head": {"init_args": {"m": 2}}}) == {
        "a": {"x": 1, "y": [2]},
        "head": {"class_path": "A", "init_args": {"n": 1, "m": 2}},
    }
    assert merge(first, {"head": {"class_path": "B"}})["head"] == {"class_path": "B"}
