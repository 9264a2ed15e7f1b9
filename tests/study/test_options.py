"""Settings as words of a command line, read back by the real parser."""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from histotransfer_pl.study.options import options


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
