"""Slides or stored features in, predictions and attention out, with one model or several."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histotransfer_pl.data.cohort import read_cohort, require_patients
from histotransfer_pl.data.covariates import encode_covariates
from histotransfer_pl.errors import ConfigError, HistoTransferError, shorten
from histotransfer_pl.inference.certainty import (
    SET,
    basis_in_words,
    certainty_cells,
    certainty_columns,
    require_sets,
    set_in_words,
)
from histotransfer_pl.inference.features import BagResult, extract_features, stored_features
from histotransfer_pl.inference.outputs import write_page, write_pictures
from histotransfer_pl.records.tables import write_table
from histotransfer_pl.runs.model import SlideClassifier
from histotransfer_pl.runs.model_file import load_model
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.slide import StoredSlide

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Applied:
    """What became of the slides.

    Attributes:
        predictions: One row per slide, or per patient of a model of patients, that was classified.
        failed: Reason for each slide that was not.
        out: Folder of the results.
        basis: What calibrated probabilities and sets rest on, or why there are none.
    """

    predictions: pd.DataFrame
    failed: Mapping[str, str]
    out: Path
    basis: str = ""


def apply(
    models: Sequence[str | Path | SlideClassifier],
    slides: str | Path | None = None,
    out: str | Path = "applied",
    *,
    store: str | Path | None = None,
    error: float | None = None,
    slide_mpp: float | None = None,
    weights: Path | None = None,
    pictures: bool = True,
    top_k: int = 64,
    allow_foreign: bool = False,
    trainer: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Applied:
    """Classify slides that no table of the training knows.

    Slides are tiled, encoded and classified; an interrupted call goes on where it stopped. The
    grid, resolution and encoder are the model's. A model whose bags are patients takes all slides
    of a patient as one, and needs a table that names the patients.

    Args:
        models: Model files, run folders, or opened models; several are an ensemble, whose
            probability is the mean.
        slides: Folder of slides, or a table with ``slide_id`` and optionally ``path``, ``mpp``,
            ``patient_id``.
        out: Folder of the results.
        store: Store with features of these models; the slides are then all of it, or those of a
            table.
        error: Share of new patients' slides whose set of classes may lack the true one, such as
            0.1; None for no sets.
        slide_mpp: Micrometres per pixel of slides whose file does not say it.
        weights: File with the encoder's weights, where the model file does not hold them.
        pictures: Whether to draw attention and the page.
        top_k: So many patches at most are marked as top attention.
        allow_foreign: Whether a head of another package may be imported.
        trainer: Further arguments of the Trainer that encodes, such as ``devices``.
        data: Further settings of `PatchDataModule`, such as ``threads``.

    Raises:
        ConfigError: No model, models that do not go together, neither slides nor a store, or sets
            that a model cannot promise.
        StoreMismatchError: A store of other features than the models'.
    """
    opened = [_opened(model, allow_foreign=allow_foreign) for model in models]
    _require_one_kind(opened)
    require_sets(opened, error)
    folder, table = Path(out), _table_of(slides)
    if slides is None and store is None:
        raise ConfigError("give slides (a folder or a table), or a store of features")
    if slides is not None and table is None and store is not None:
        raise ConfigError("give either a folder of slides or a store; a table may go with a store")
    patients = None if opened[0].record.bag == "slide" else _patients(opened[0], table)
    failed: dict[str, str] = {}
    if table is not None:
        _warn_of_seen_patients(table, opened)
    if store is not None:
        reader = stored_features(FeatureStore.open(store), opened)
        held = reader.store.slide_ids()
        chosen = held if table is None else read_cohort(table)["slide_id"].tolist()
    else:
        place = {"slides": Path(str(slides))} if table is None else {"cohort": table}
        settings = {**place, "slide_mpp": slide_mpp, **(data or {})}
        reader, chosen, failed = extract_features(opened, settings, folder, weights, trainer or {})
    bags = _bags(chosen, patients)
    known = _covariates(opened, table)
    rows = []
    for name, slide_ids in bags.items():
        try:
            own = [reader.store.slide(slide_id) for slide_id in slide_ids]
            result = reader.classify(own, None if known is None else known.loc[slide_ids[:1]])
            rows.append(_row(name, own, result, opened, error))
            if pictures:
                ends = np.cumsum([slide.n_patches for slide in own])[:-1]
                for slide, attention in zip(own, np.split(result.attention, ends), strict=True):
                    write_pictures(slide, attention, rows[-1], folder, top_k, _name(opened))
        except HistoTransferError as problem:
            failed |= dict.fromkeys(slide_ids, str(problem))
    basis = basis_in_words(opened, error)
    found = pd.DataFrame(rows, columns=_columns(opened, error))
    write_table(folder / "predictions.csv", found)
    write_table(
        folder / "failed.csv", pd.DataFrame(sorted(failed.items()), columns=["slide_id", "reason"])
    )
    if pictures:
        shown = found.assign(in_words=[row["in_words"] for row in rows])
        write_page(folder, shown, bags, failed, opened, basis)
    return Applied(found, failed, folder, basis)


def _opened(model: str | Path | SlideClassifier, *, allow_foreign: bool) -> SlideClassifier:
    if isinstance(model, SlideClassifier):
        return model
    return load_model(model, allow_foreign=allow_foreign)


def _name(models: Sequence[SlideClassifier]) -> str:
    """Which run spoke, for the pictures: the beginning of its id, or of the first one's."""
    more = f" and {len(models) - 1} more" if len(models) > 1 else ""
    return models[0].id[:12] + more


def _require_one_kind(models: Sequence[SlideClassifier]) -> None:
    if not models:
        raise ConfigError("no model is given: give at least one")
    first = models[0]
    for other in models[1:]:
        wrong = []
        mine, others = first.outcome.columns, other.outcome.columns
        if mine != others or first.record.target.task != other.record.target.task:
            wrong.append(f"targets ({', '.join(mine)} and {', '.join(others)})")
        if first.record.grid != other.record.grid:
            wrong.append("patch grids")
        if first.record.bag != other.record.bag:
            wrong.append(f"bags (a {first.record.bag} and a {other.record.bag})")
        if wrong:
            raise ConfigError(
                f"{first.name} and {other.name} cannot be an ensemble: they have different "
                f"{' and '.join(wrong)}"
            )


def _table_of(slides: str | Path | None) -> Path | None:
    """The table of slides; None for a folder of slides."""
    place = None if slides is None else Path(slides)
    if place is None or place.suffix.lower() == ".csv":
        return place
    if not place.is_dir():
        raise ConfigError(f"no folder {place}: give a folder of slides, or a CSV table")
    return None


def _patients(model: SlideClassifier, table: Path | None) -> dict[str, str]:
    """The patient of each slide."""
    frame = None if table is None else read_cohort(table)
    if frame is None or "patient_id" not in frame:
        raise ConfigError(
            f"{model.name} takes all slides of a patient as one bag: give a CSV table with "
            "slide_id and patient_id as slides"
        )
    require_patients(frame, Path(str(table)))
    return dict(zip(frame["slide_id"], frame["patient_id"], strict=True))


def _covariates(models: Sequence[SlideClassifier], table: Path | None) -> pd.DataFrame | None:
    """The table by slide, where a model reads covariates."""
    needed = {spec.column for model in models for spec in model.record.covariates}
    if not needed:
        return None
    if table is None:
        raise ConfigError(
            f"{models[0].name} reads the covariates {', '.join(sorted(needed))}: give a CSV table "
            "with slide_id and these columns as slides"
        )
    frame = read_cohort(table).set_index("slide_id")
    for model in models:
        encode_covariates(frame, model.record.covariates)  # says now what is missing
    return frame


def _bags(slide_ids: Sequence[str], patients: Mapping[str, str] | None) -> dict[str, list[str]]:
    """The slides of each bag."""
    found: dict[str, list[str]] = {}
    for slide_id in slide_ids:
        found.setdefault(slide_id if patients is None else patients[slide_id], []).append(slide_id)
    return dict(sorted(found.items()))


def _warn_of_seen_patients(table: Path, models: Sequence[SlideClassifier]) -> None:
    """Say which patients of a table a model was trained on: their predictions prove nothing."""
    frame = read_cohort(table)
    patients = [] if "patient_id" not in frame else frame["patient_id"].dropna().unique().tolist()
    seen = [p for p in patients if any(model.knows_patient(str(p)) for model in models)]
    if seen:
        _log.warning(
            "%d patients of %s were trained on (%s): what is said of them proves nothing",
            *(len(seen), table, shorten(seen)),
        )


def _shown(column: str) -> str:
    """What this table calls a column of scores."""
    return f"prob_{column.removeprefix('p_')}" if column.startswith("p_") else column


def _columns(models: Sequence[SlideClassifier], error: float | None) -> list[str]:
    outcome = models[0].outcome
    names = ["slide_id"] if models[0].record.bag == "slide" else ["patient_id", "slides"]
    decided = [] if outcome.decide(np.zeros(len(outcome.columns))) is None else ["predicted"]
    several = [f"sd_{name.removeprefix('p_')}" for name in outcome.columns]
    several = [*several, *(["votes"] if decided else [])] if len(models) > 1 else []
    certain = certainty_columns(models, error)
    return [*names, "patches", *map(_shown, outcome.columns), *decided, *certain, *several]


def _row(
    name: str,
    slides: Sequence[StoredSlide],
    result: BagResult,
    models: Sequence[SlideClassifier],
    error: float | None,
) -> dict[str, Any]:
    """A row of predictions.csv; with several models their mean, spread and vote."""
    outcome, of_slides = models[0].outcome, models[0].record.bag == "slide"
    mean = result.scores.mean(0)  # (K,)
    row: dict[str, Any] = {"slide_id": name} if of_slides else {"patient_id": name}
    row |= {"slides": len(slides), "patches": sum(slide.n_patches for slide in slides)}
    row |= {_shown(key): value for key, value in outcome.cells(mean).items()}
    if len(result.scores) > 1:
        spread = result.scores.std(0, ddof=1)  # (K,)
        for column, sd in zip(outcome.columns, spread, strict=True):
            row[f"sd_{column.removeprefix('p_')}"] = float(sd)
        agreeing = [outcome.decide(one) == outcome.decide(mean) for one in result.scores]
        row["votes"] = f"{sum(agreeing)} of {len(agreeing)}"
    row |= certainty_cells(models, result.scores, error)
    row["in_words"] = outcome.in_words(mean)
    if SET in row:
        row["in_words"] += f"; {set_in_words(row[SET])}"
    return row
