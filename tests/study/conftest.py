"""Small studies."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.runs.steps import Plan, Step
from histotransfer_pl.study.config import Folds, StudyConfig

Main = Callable[[Sequence[str]], int]


def make_config(folder: Path, **settings: Any) -> StudyConfig:
    """Two encoders at one and two depths, two heads, three folds, two seeds."""
    usual: dict[str, Any] = {
        "name": "mini",
        "study_dir": folder / "study",
        "cohort": folder / "cohort.csv",
        "encoders": [
            EncoderConfig("resnet18", depths=["layer1", "layer4"]),
            EncoderConfig("resnet18", weights="random"),
        ],
        "heads": {
            "attention": {"class_path": "AttentionHead"},
            "mean": {"class_path": "MeanPoolHead", "init_args": {"hidden": []}},
        },
        "folds": Folds(n_folds=3),
        "seeds": [0, 1],
    }
    return StudyConfig(**{**usual, **settings})


@pytest.fixture
def chain(tmp_path: Path) -> Plan:
    """a <- b <- c, and d on its own; each writes a file of its name."""

    def step(name: str, *needs: str, kind: str = "fit") -> Step:
        return Step(name, kind, ("touch", name), needs, outputs=(str(tmp_path / name),))

    return Plan("chain", (step("a"), step("b", "a"), step("c", "b"), step("d")))


@pytest.fixture
def touch(tmp_path: Path) -> Main:
    """Stands for the command line: writes the file that is named."""

    def main(argv: Sequence[str]) -> int:
        print("writing", argv[1])  # noqa: T201 - what a step says belongs into its log
        (tmp_path / argv[1]).write_text("x")
        return 0

    return main
