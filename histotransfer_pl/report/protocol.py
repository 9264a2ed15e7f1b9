"""What one needs to do it again: commands, versions, hashes, seeds, settings."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from histotransfer_pl import __version__
from histotransfer_pl.errors import StoreError
from histotransfer_pl.records.files import sha256_of
from histotransfer_pl.report.similarity import facts_in_words
from histotransfer_pl.report.table import Table
from histotransfer_pl.runs.arms import Arm, MissingRun
from histotransfer_pl.runs.state import DONE, FAILED
from histotransfer_pl.runs.study import Study
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path

_PACKAGES = (
    "torch", "lightning", "timm", "zarr", "openslide-python", "openslide-bin", "numpy", "scipy",
    "scikit-learn", "statsmodels", "torchmetrics",
)  # fmt: skip
_SHOWN = 40


@dataclass(frozen=True, eq=False)
class Protocol:
    """The last section of the page."""

    facts: tuple[tuple[str, str], ...]
    features: Table | None
    commands: tuple[str, ...]
    settings: str


def describe_protocol(
    study: Study, arms: Sequence[Arm], store: FeatureStore | None, cohort: Path | None
) -> Protocol:
    """Collect what the study, its runs and its store recorded."""
    runs = [run for arm in arms for run in arm.runs]
    facts = [("histotransfer_pl", __version__), ("Python", platform.python_version())]
    facts += [(name, _version(name)) for name in _PACKAGES]
    if study.plan.created:
        facts.append(("Planned", study.plan.created))
    facts.append(("Seeds", ", ".join(map(str, sorted({r.cell.seed for r in runs}))) or "–"))
    facts.append(("Splits", ", ".join(sorted({r.cell.split for r in runs})) or "–"))
    if cohort is not None and cohort.is_file():
        facts.append(("Cohort table", f"{cohort} (sha256 {sha256_of(cohort)})"))
    if store is not None:
        facts.append(("Store", store.location))
        facts += [(f"Grid: {key}", value) for key, value in facts_in_words(store.grid or {})]
    return Protocol(
        tuple(facts),
        None if store is None else _features(arms, store),
        tuple(step.command for step in study.steps),
        study.settings,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


_RECORDED = (
    "weights", "weights_sha256", "input_px", "mean", "std", "precision", "timm", "torch",
    "tuned_fold",
)  # fmt: skip


def _features(arms: Sequence[Arm], store: FeatureStore) -> Table | None:
    """A row for each encoder and depth that was read, as the store recorded it."""
    kinds: dict[tuple[str, str], str] = {}
    for run in (run for arm in arms for run in arm.runs):
        names = (run.record.features.store_name, run.record.features.depths[0])
        if len(run.table):
            kinds.setdefault(names, str(run.table["slide_id"].iloc[0]))
    rows: list[dict[str, Any]] = []
    for (encoder, depth), slide_id in kinds.items():
        try:
            info = store.slide(slide_id).info(feature_path(encoder, depth))
        except StoreError:
            # Named after patients, or removed since: the page then shows the others.
            continue
        known = {key: info.attributes.get(key) for key in _RECORDED}
        kept = {key: "" if value is None else str(value) for key, value in known.items()}
        rows.append({"encoder": encoder, "depth": depth, "dim": info.shape[-1], **kept})
    if not rows:
        return None
    frame = pd.DataFrame(rows)
    alike = frame.groupby(["encoder", *_RECORDED], sort=False)  # but for their depth
    page = pd.DataFrame([_features_row(depths) for _, depths in alike])
    page = page.loc[:, (page != "").any()]
    note = "Hashes are in full in the CSV file."
    table = Table(
        "features", "Features that were read, as the store records them", frame, page, note
    )
    return table.shortened(_SHOWN)


def _features_row(depths: pd.DataFrame) -> dict[str, str]:
    one = depths.iloc[0]
    cuts = zip(depths["depth"], depths["dim"], strict=True)
    return {
        "Encoder": one["encoder"],
        "Cut after (dimensions)": ", ".join(f"{depth} ({dim})" for depth, dim in cuts),
        "Weights": _lines({"": one["weights"], "sha256 ": one["weights_sha256"][:12]}),
        "Images": _lines({"px ": one["input_px"], "mean ": one["mean"], "SD ": one["std"]}),
        "Precision": one["precision"],
        "Versions": _lines({"timm ": one["timm"], "torch ": one["torch"]}),
        "Tuned in fold": one["tuned_fold"],
    }


def _lines(parts: Mapping[str, str]) -> str:
    """A line for each part that is recorded."""
    return "\n".join(f"{word}{value}" for word, value in parts.items() if value)


def steps_table(study: Study) -> Table | None:
    """Every step that is not done, and why."""
    if not study.steps:
        return None
    frame = pd.DataFrame(
        [
            {"step": step.name, "kind": step.kind, **asdict(study.states[step.name])}
            | {"command": step.command}
            for step in study.steps
        ]
    )
    open_steps = frame[frame["state"] != DONE]
    # What failed is the news; what waits for it follows from it.
    order = (open_steps["state"] != FAILED).sort_values(kind="stable").index
    page = open_steps.loc[order, ["step", "state", "error"]].rename(columns=str.capitalize)
    return Table("steps", "Steps of the study that are not done", frame, page).shortened(_SHOWN)


def missing_table(missing: Sequence[MissingRun]) -> Table | None:
    """Runs without predictions."""
    if not missing:
        return None
    frame = pd.DataFrame([{"run": m.name, "reason": m.reason} for m in missing])
    page = frame.rename(columns=str.capitalize)
    table = Table("missing_runs", "Runs that are not in the comparison", frame, page)
    return table.shortened(_SHOWN)
