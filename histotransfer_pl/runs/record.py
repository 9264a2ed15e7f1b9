"""What a run folder says of its run: `run.json`, or what earlier releases left instead."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from histotransfer_pl.errors import AnalysisError, RecordError
from histotransfer_pl.records.attributes import first_version_record
from histotransfer_pl.records.files import sha256_of, write_text
from histotransfer_pl.records.run import ClassSpec, RunRecord, split_spec
from histotransfer_pl.records.yaml_files import YamlError, read_yaml

RUN_FILE = "run.json"
CONFIG = "config.yaml"
ALL_PREDICTIONS = "predictions.csv"
"""What ``predict`` writes."""
CHECKPOINT = Path("checkpoints") / "best.ckpt"
VERSION = 2


@dataclass(frozen=True, eq=False)
class RunFolder:
    """A run folder.

    Attributes:
        folder: Where it is.
        config: What `fit` was set to.
        record: What the trained model knows of its training.
        known_id: Hash of its checkpoint as `run.json` says it; empty for earlier releases.
    """

    folder: Path
    config: Mapping[str, Any]
    record: RunRecord
    known_id: str = ""

    @cached_property
    def id(self) -> str:
        """Hash of its checkpoint, which is its identity; empty without one."""
        path = self.folder / CHECKPOINT
        return self.known_id or (sha256_of(path) if path.is_file() else "")

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that evaluates it."""
        return self.folder / CHECKPOINT

    @property
    def data(self) -> Mapping[str, Any]:
        """Settings of its data: where store and cohort are, and the split."""
        return init_args(self.config.get("data"))

    @property
    def seed(self) -> int:
        """Seed of the training; 0 where none was set."""
        seed = self.config.get("seed_everything")
        return 0 if seed is None or isinstance(seed, bool) else int(seed)


def write_run(folder: Path, identity: str, record: RunRecord) -> None:
    """Write `run.json`."""
    content = {
        "version": VERSION,
        "id": identity,
        # relative paths of its configuration start here
        "working_folder": str(Path.cwd()),
        "record": record.to_json(),
    }
    write_text(folder / RUN_FILE, json.dumps(content, indent=1) + "\n")


def load_run(folder: Path) -> RunFolder:
    """Read a run folder, of this release or an earlier one.

    Raises:
        AnalysisError: It holds no run, or one that cannot be read; the message says why.
    """
    config = read_config(folder)
    path = folder / RUN_FILE
    if not path.is_file():
        return RunFolder(folder, config, _record_of(folder, config))
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise RecordError(f"version {content['version']}, expected {VERSION}")
        return RunFolder(folder, config, RunRecord.from_json(content["record"]), str(content["id"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnalysisError(
            f"{path} cannot be read ({error}): test the run again with the release that wrote it"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """What a run was set to."""
    path = folder / CONFIG
    try:
        config = read_yaml(path)
    except FileNotFoundError as error:
        raise AnalysisError(f"{path} is missing: without it nobody knows what ran") from error
    except OSError as error:
        raise AnalysisError(f"{path} cannot be read: {error.strerror}") from error
    except YamlError as error:
        raise AnalysisError(f"{error}: run fit again") from error
    data = init_args(config.get("data")) if isinstance(config, dict) else {}
    for name in ("cohort", "target", "fold", "split_seed", "bag"):
        if name not in data:
            raise AnalysisError(f"{path} does not say data.{name}: not a run of slide labels")
    return dict(config)


def init_args(group: Any) -> Mapping[str, Any]:
    """The arguments of a class in a configuration."""
    arguments = group.get("init_args") if isinstance(group, Mapping) else None
    return arguments if isinstance(arguments, Mapping) else {}


def _record_of(folder: Path, config: Mapping[str, Any]) -> RunRecord:
    """The record of a run without `run.json`: from its checkpoint, and its configuration."""
    noted = _noted(folder)
    if noted.get("version") == VERSION:
        return RunRecord.from_json(noted["record"])
    data = init_args(config.get("data"))
    head = init_args(config.get("model")).get("head")
    head = head if isinstance(head, Mapping) else {}
    settings = {
        "encoder": data.get("encoder") or "",
        "depth": data.get("depth") or "",
        "in_features": 0,
        "target": data["target"],
        "classes": (),
        "bag": data["bag"],
    }
    record = first_version_record({**settings, **noted}, standardized=False)
    return replace(
        record,
        head=ClassSpec(str(head.get("class_path", "")), init_args(head)),
        split=split_spec(
            int(data["fold"]), data.get("n_folds"), data["split_seed"], data.get("fold_column")
        ),
    )


def _noted(folder: Path) -> dict[str, Any]:
    """What the checkpoint says of its training."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return {}
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError):
        # The predictions of a run whose checkpoint is damaged count all the same.
        return {}
    found = content.get("histotransfer_pl")
    return dict(found) if isinstance(found, dict) else {}
