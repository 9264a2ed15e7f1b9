"""One run: what it was set to, and what it predicted on its test slides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.report.plan import PlannedRun
from histotransfer_pl.report.settings import training_settings

TUNED_ON = "tuned on "
"""How the variant of a plain run begins whose encoder was trained too."""


class ArmKey(NamedTuple):
    """What a study compares: everything but fold and seed.

    Attributes:
        encoder: Name of the encoder.
        weights: Its weights; empty for plain runs.
        depth: Where it is cut.
        head: The network on the bag.
        variant: Frozen, or on which patches the encoder was tuned.
        settings: Of plain runs that agree in all of this and yet were trained otherwise: the
            first run of these settings.
    """

    encoder: str
    weights: str
    depth: str
    head: str
    variant: str
    settings: str = ""


class Task(NamedTuple):
    """What was to be predicted; runs of different tasks are never compared."""

    cohort: str
    target: str
    bag: str


class Cell(NamedTuple):
    """One training of an arm: which patients tested it, and its seed."""

    split: str
    fold: int
    seed: int


@dataclass(frozen=True, eq=False)
class Run:
    """A run with its test predictions.

    Attributes:
        name: Name of the run.
        folder: Its folder.
        run_dir: The name its attention bears in the store.
        arm: What of the comparison it belongs to.
        task: What it predicts.
        cell: Its split, fold and seed.
        data: The settings of its datamodule.
        table: (S rows) slide_id, patient_id, label, predicted, p_<class>...
        classes: The classes in the order of their columns.
        settings: What it was trained with, by dotted name; empty for a run of a study, whose plan
            says what may differ.
    """

    name: str
    folder: Path
    run_dir: str
    arm: ArmKey
    task: Task
    cell: Cell
    data: Mapping[str, Any]
    table: pd.DataFrame
    classes: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)


def read_run(planned: PlannedRun) -> Run:
    """Read a finished run.

    Raises:
        AnalysisError: The run is missing, unfinished, or not one that can be read; the message
            is a line of the page.
    """
    table, classes = read_predictions(planned)
    config = _read_config(planned.folder)
    data = dict(_init_args(config.get("data")))
    provenance = {} if data.get("encoder") and data.get("depth") else _provenance(planned.folder)
    factors = {**_factors_of_config(config, data, provenance), **planned.factors}
    split = data.get("fold_column") or f"{data.get('n_folds')} folds of seed {data['split_seed']}"
    return Run(
        name=planned.name,
        folder=planned.folder,
        run_dir=planned.run_dir,
        arm=ArmKey(*(str(factors.get(name) or "") for name in ArmKey._fields)),
        task=Task(str(data["cohort"]), str(data["target"]), str(data["bag"])),
        cell=Cell(str(split), int(factors["fold"]), int(factors["seed"])),
        data={**provenance, **{k: v for k, v in data.items() if v is not None}},
        table=table,
        classes=classes,
        settings={} if planned.factors else training_settings(config),
    )


def read_predictions(planned: PlannedRun) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The predictions of the test slides and the classes.

    Raises:
        AnalysisError: There is no such table, or it is not one of predictions.
    """
    path = planned.folder / "test_predictions.csv"
    if planned.problem:
        raise AnalysisError(planned.problem)
    if not path.is_file():
        raise AnalysisError(f"{path} is missing: run test in this folder")
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str), keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise AnalysisError(f"{path} is damaged ({error}): run test again") from error
    classes = tuple(c.removeprefix("p_") for c in table.columns if c.startswith("p_"))
    if "patient_id" not in table or "label" not in table or len(classes) < 2:
        raise AnalysisError(f"{path} has the columns {', '.join(table.columns)}: run test again")
    if "slide_id" not in table:
        # A bag of all slides of a patient is evaluated as one.
        table = table.assign(slide_id=table["patient_id"])
    unknown = sorted(set(table["label"]) - set(classes))
    if unknown:
        raise AnalysisError(f"{path}: labels {unknown} are none of the classes {list(classes)}")
    numbers = table[[f"p_{c}" for c in classes]].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(numbers.to_numpy()).all():
        raise AnalysisError(f"{path}: probabilities that are not finite; the training diverged")
    return table.assign(**numbers), classes


_TEXT = ("slide_id", "patient_id", "part", "label", "predicted")


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AnalysisError(f"{path} is missing: without it nobody knows what ran") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AnalysisError(f"{path} is not YAML: run fit again") from error
    needed = ("cohort", "target", "fold", "split_seed", "bag")
    data = _init_args(config.get("data")) if isinstance(config, dict) else {}
    missing = [name for name in needed if name not in data]
    if missing:
        raise AnalysisError(f"{path} does not say data.{missing[0]}: not a run of slide labels")
    return dict(config)


def _factors_of_config(
    config: Mapping[str, Any], data: Mapping[str, Any], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    head = _init_args(config.get("model")).get("head") or {}
    name = str(head.get("class_path", "")).rsplit(".", 1)[-1]
    gated = _init_args(head).get("gated") and "Gated" not in name
    return {
        "encoder": data.get("encoder") or provenance.get("encoder"),
        "weights": "",
        "depth": data.get("depth") or provenance.get("depth"),
        "head": f"{name}, gated" if gated else name,
        "variant": _variant(config.get("model"), data),
        "fold": data["fold"],
        "seed": _number(config.get("seed_everything")),
    }


def _variant(model: Any, data: Mapping[str, Any]) -> str:
    """Whether the encoder was trained too, and on which patches."""
    name = model.get("class_path") if isinstance(model, Mapping) else None
    if str(name).rsplit(".", 1)[-1] != "TopKFineTuner":
        return "frozen"
    # By default a selection is called after its stage-1 run, which differs from fold to fold.
    stage1 = Path(str(_init_args(model).get("stage1") or ""))
    run = stage1.parent.parent.name if stage1.suffix == ".ckpt" else stage1.name
    selection = str(data.get("selection") or "selected patches")
    for name in (run, run.removeprefix("fit-")):  # a study calls it without the verb
        selection = selection.removeprefix(f"{name}-") if name else selection
    return TUNED_ON + selection


def _init_args(group: Any) -> Mapping[str, Any]:
    arguments = group.get("init_args") if isinstance(group, Mapping) else None
    return arguments if isinstance(arguments, Mapping) else {}


def _number(seed: Any) -> int:
    return 0 if seed is None or isinstance(seed, bool) else int(seed)


def _provenance(folder: Path) -> dict[str, Any]:
    """What the checkpoint says of the features, when the configuration left it to the store."""
    import torch

    path = folder / "checkpoints" / "best.ckpt"
    if not path.is_file():
        return {}
    content = torch.load(path, map_location="cpu", weights_only=True)
    found = content.get("histotransfer_pl")
    return dict(found) if isinstance(found, dict) else {}
