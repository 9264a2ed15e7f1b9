"""One run: what it was set to, and what it predicted on its test slides."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.records.run import RunRecord
from histotransfer_pl.runs.predictions import PredictionTable, read_predictions
from histotransfer_pl.runs.record import CHECKPOINT, RUN_FILE, RunFolder, load_run, read_config
from histotransfer_pl.runs.study import PlannedRun
from histotransfer_pl.runs.variant import Variant, variant_of_selection

PREDICTIONS, METRICS = "test_predictions.csv", "test_metrics.json"

_OF_THE_CELL = ("fold", "n_folds", "split_seed", "fold_column")
_PLACES = ("run_dir", "ckpt_path", "dirpath", "default_root_dir", "save_dir", "cache_dir", "slides")
_SPEED = ("num_workers", "threads", "cache", "cache_gb", "logger", "log_every_n_steps", "profiler")
_SHOWN = ("enable_progress_bar", "enable_model_summary", "verbose")
_LEFT_OUT = frozenset(("seed_everything", *_OF_THE_CELL, *_PLACES, *_SPEED, *_SHOWN))
# The name of a selection is part of the arm already, without the run that it was made with.
_LEFT_OUT_OF_DATA = frozenset(("data.selection",))
_STAGE1 = "model.stage1"


class ArmKey(NamedTuple):
    """What a study compares: everything but fold and seed.

    Attributes:
        encoder: Name of the encoder.
        weights: Its weights; empty for plain runs.
        depth: Where it is cut.
        head: The network on the bag.
        variant: Frozen, or how the encoder was tuned.
        weights_kind: Whether they are random, pretrained ...; empty where nobody recorded it.
        settings: Of plain runs that agree in all of this and yet were trained otherwise: the
            first run of these settings.
    """

    encoder: str
    weights: str
    depth: str
    head: str
    variant: Variant = Variant()
    weights_kind: str = ""
    settings: str = ""

    def words(self) -> dict[str, str]:
        """What tables hold of it; pandas shows a variant, a tuple, as its fields."""
        return {name: str(value) for name, value in self._asdict().items()}


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
        source: Its folder, configuration and record.
        run_dir: The name its attention bears in the store of an earlier release.
        arm: What of the comparison it belongs to.
        task: What it predicts.
        cell: Its split, fold and seed.
        tested: Its test slides.
        settings: What it was trained with, by dotted name; empty for a run of a study, whose plan
            says what may differ.
    """

    name: str
    source: RunFolder
    run_dir: str
    arm: ArmKey
    task: Task
    cell: Cell
    tested: PredictionTable
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.source.folder

    @property
    def record(self) -> RunRecord:
        """What the trained model knows of its training."""
        return self.source.record

    @property
    def data(self) -> Mapping[str, Any]:
        """The settings of its datamodule."""
        return self.source.data

    @property
    def table(self) -> pd.DataFrame:
        """(S rows) slide_id, patient_id, label, predicted, p_<class>..."""
        return self.tested.frame

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes; of two of them the positive one last."""
        return self.tested.classes

    @property
    def attention_names(self) -> tuple[str, ...]:
        """What its attention may be called in the store."""
        return (self.source.id, self.run_dir)


def read_run(planned: PlannedRun) -> Run:
    """Read a finished run.

    Raises:
        AnalysisError: The run is missing, unfinished, or not one that can be read; the message
            is a line of the page.
    """
    if planned.problem:
        raise AnalysisError(planned.problem)
    if not (planned.folder / PREDICTIONS).is_file():
        raise AnalysisError(f"{planned.folder / PREDICTIONS} is missing: run test in this folder")
    source = load_run(planned.folder)
    refuse_outdated(source, planned.folder)
    record, data = source.record, source.data
    split = record.split
    fold = int(data["fold"]) if split is None else split.fold
    column = data.get("fold_column")
    return Run(
        name=planned.name,
        source=source,
        run_dir=planned.run_dir,
        arm=_arm({**_factors(source), **planned.factors}),
        task=Task(str(data["cohort"]), record.target.column, record.bag),
        cell=Cell(
            str(column or f"{data.get('n_folds')} folds of seed {data['split_seed']}"),
            int(planned.factors.get("fold", fold)),
            int(planned.factors.get("seed", source.seed)),
        ),
        tested=read_predictions(planned.folder / PREDICTIONS, record.target),
        settings={} if planned.factors else training_settings(source.config),
    )


def refuse_outdated(source: RunFolder, folder: Path) -> None:
    """Refuse predictions that another training left in the folder.

    Raises:
        AnalysisError: The metrics name another checkpoint; or, where an earlier release named
            none, the predictions are older than checkpoint and record.
    """
    table = folder / PREDICTIONS
    try:
        tested = json.loads((folder / METRICS).read_text(encoding="utf-8")).get("run")
    except (OSError, ValueError, AttributeError):
        tested = None  # none, or damaged: the times decide
    if source.known_id and isinstance(tested, str) and tested:
        outdated = tested != source.known_id
    else:
        newer = [source.folder / RUN_FILE, source.folder / CHECKPOINT]
        written = table.stat().st_mtime_ns
        outdated = all(path.is_file() and path.stat().st_mtime_ns > written for path in newer)
    if outdated:
        raise AnalysisError(f"{table} is of an earlier training in this folder: run test again")


def _arm(factors: Mapping[str, Any]) -> ArmKey:
    words = {name: str(factors.get(name) or "") for name in ArmKey._fields if name != "variant"}
    variant = factors["variant"]
    read = variant if isinstance(variant, Variant) else Variant.read(str(variant))
    return ArmKey(**words, variant=read)


def _factors(source: RunFolder) -> dict[str, Any]:
    features, head = source.record.features, source.record.head
    name = head.class_path.rsplit(".", 1)[-1]
    gated = head.init_args.get("gated") and "Gated" not in name
    weights = features.encoder.weights
    return {
        "encoder": features.store_name or features.encoder.name,
        "weights": "",
        "weights_kind": weights.kind,
        "depth": "+".join(features.depths),
        "head": f"{name}, gated" if gated else name,
        "variant": variant_of_selection(source.record.selection),
    }


def training_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Every setting that makes a training another one, by its name on the command line.

    Fold and seed are left out, so are paths of the run and what changes its speed only. In place
    of the path of a stage-1 run, which differs from fold to fold, stand that run's own settings.
    """
    found = dict(_flat("", config))
    stage1 = found.pop(_STAGE1, None)
    if stage1 is None:
        return found
    own = training_settings(_config_of(Path(str(json.loads(stage1)))))
    return {**found, **{f"{_STAGE1}.{name}": value for name, value in own.items()}}


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        pairs = ((_joined(name, str(key)), item) for key, item in value.items())
        return [leaf for key, item in pairs if _counts(key) for leaf in _flat(key, item)]
    # An option that is not set is the same as one that an older release did not have.
    return [] if value is None else [(name, json.dumps(value, default=str, sort_keys=True))]


def _joined(name: str, key: str) -> str:
    return name if key == "init_args" else f"{name}.{key}" if name else key


def _counts(name: str) -> bool:
    return name.rsplit(".", 1)[-1] not in _LEFT_OUT and name not in _LEFT_OUT_OF_DATA


def _config_of(run: Path) -> Mapping[str, Any]:
    """The configuration of a run, given as its folder or as a checkpoint in it."""
    for folder in (run, *run.parents[:2]):
        try:
            return read_config(folder)
        except AnalysisError:
            # The report may be made where stage 1 is not: then its settings are not compared.
            continue
    return {}
