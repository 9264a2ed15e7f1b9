"""Slides or stored features in, predictions and attention out, with one model or several."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning import Trainer
from numpy.typing import NDArray

from histotransfer_pl.callbacks.feature_writer import FeatureWriter
from histotransfer_pl.data.cohort import read_cohort, shorten
from histotransfer_pl.data.patches import PatchDataModule
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder
from histotransfer_pl.errors import ConfigError, HistoTransferError, StoreMismatchError
from histotransfer_pl.inference.encoder import build_model_encoder, record_as
from histotransfer_pl.inference.outputs import write_page, write_pictures
from histotransfer_pl.records.attributes import encoder_spec
from histotransfer_pl.records.encoder import FeatureSpec
from histotransfer_pl.records.tables import write_table
from histotransfer_pl.runs.model import SlideClassifier
from histotransfer_pl.runs.model_file import load_model
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path
from histotransfer_pl.store.slide import StoredSlide
from histotransfer_pl.tasks.extract import FeatureExtractor

_log = logging.getLogger(__name__)

FEATURES = "features.zarr"
_TABLES = (".csv",)


@dataclass(frozen=True)
class Applied:
    """What became of the slides.

    Attributes:
        predictions: One row per slide that was classified.
        failed: Reason for each slide that was not.
        out: Folder of the results.
    """

    predictions: pd.DataFrame
    failed: Mapping[str, str]
    out: Path


@dataclass(frozen=True)
class _ModelOutputs:
    """What the models said of one slide."""

    probabilities: NDArray[np.float64]  # (M, C)
    attention: NDArray[np.float64]  # (N,), mean over the models


@dataclass
class _Reader:
    """Where the features of each model lie in a store."""

    store: FeatureStore
    models: Sequence[SlideClassifier]
    arrays: list[list[str]] = field(default_factory=list)

    def classify(self, slide: StoredSlide) -> _ModelOutputs:
        results = []
        for model, arrays in zip(self.models, self.arrays, strict=True):
            parts = [slide.read(array) for array in arrays]
            results.append(model.predict(parts[0] if len(parts) == 1 else np.hstack(parts)))
        attention = np.mean([result.attention for result in results], axis=0)  # (N,)
        return _ModelOutputs(np.stack([result.probabilities for result in results]), attention)


def apply(
    models: Sequence[str | Path | SlideClassifier],
    slides: str | Path | None = None,
    out: str | Path = "applied",
    *,
    store: str | Path | None = None,
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
    grid, resolution and encoder are the model's.

    Args:
        models: Model files, run folders, or opened models; several are an ensemble, whose
            probability is the mean.
        slides: Folder of slides, or a table with ``slide_id`` and optionally ``path``, ``mpp``.
        out: Folder of the results.
        store: Store with features of these models, instead of slides.
        slide_mpp: Micrometres per pixel of slides whose file does not say it.
        weights: File with the encoder's weights, where the model file does not hold them.
        pictures: Whether to draw attention and the page.
        top_k: So many patches at most are marked as top attention.
        allow_foreign: Whether a head of another package may be imported.
        trainer: Further arguments of the Trainer that encodes, such as ``devices``.
        data: Further settings of `PatchDataModule`, such as ``threads``.

    Raises:
        ConfigError: No model, models that do not go together, or neither slides nor a store.
        StoreMismatchError: A store of other features than the models'.
    """
    opened = [_opened(model, allow_foreign=allow_foreign) for model in models]
    _require_one_kind(opened)
    folder = Path(out)
    if (slides is None) == (store is None):
        raise ConfigError("give either slides (a folder or a table) or a store of features")
    failed: dict[str, str] = {}
    if store is not None:
        reader = _stored(FeatureStore.open(store), opened)
        chosen = reader.store.slide_ids()
    else:
        place = Path(str(slides))
        _warn_of_seen_patients(place, opened)
        settings = {**_slides(place), "slide_mpp": slide_mpp, **(data or {})}
        reader, chosen, failed = _encoded(opened, settings, folder, weights, dict(trainer or {}))
    rows = []
    for slide_id in chosen:
        try:
            slide = reader.store.slide(slide_id)
            said = reader.classify(slide)
            rows.append(_row(slide, said, opened[0].classes))
            if pictures:
                write_pictures(slide, said.attention, rows[-1], folder, top_k, _name(opened))
        except HistoTransferError as error:
            failed[slide_id] = str(error)
    table = pd.DataFrame(rows, columns=_columns(opened[0].classes, len(opened)))
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "predictions.csv", table)
    write_table(
        folder / "failed.csv", pd.DataFrame(sorted(failed.items()), columns=["slide_id", "reason"])
    )
    if pictures:
        write_page(folder, table, failed, opened)
    return Applied(table, failed, folder)


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
        if first.classes != other.classes:
            wrong.append(f"classes {', '.join(first.classes)} and {', '.join(other.classes)}")
        if first.record.grid != other.record.grid:
            wrong.append("patch grids")
        if wrong:
            raise ConfigError(
                f"{first.name} and {other.name} cannot be an ensemble: they have different "
                f"{' and '.join(wrong)}"
            )


def _slides(place: Path) -> dict[str, Path]:
    if place.suffix.lower() in _TABLES:
        return {"cohort": place}
    if not place.is_dir():
        raise ConfigError(f"no folder {place}: give a folder of slides, or a CSV table")
    return {"slides": place}


def _warn_of_seen_patients(place: Path, models: Sequence[SlideClassifier]) -> None:
    """Say which patients of a table a model was trained on: their predictions prove nothing."""
    if place.suffix.lower() not in _TABLES:
        return
    table = read_cohort(place)
    patients = [] if "patient_id" not in table else table["patient_id"].dropna().unique().tolist()
    seen = [p for p in patients if any(model.knows_patient(str(p)) for model in models)]
    if seen:
        _log.warning(
            "%d patients of %s were trained on (%s): what is said of them proves nothing",
            *(len(seen), place, shorten(seen)),
        )


def _encoded(
    models: Sequence[SlideClassifier],
    settings: Mapping[str, Any],
    folder: Path,
    weights: Path | None,
    options: dict[str, Any],
) -> tuple[_Reader, list[str], dict[str, str]]:
    """Tile and encode what the folder does not hold yet."""
    grid = models[0].record.grid
    if grid is None:
        raise ConfigError(
            f"{models[0].name} does not know how slides are cut into patches (imported features?): "
            "give features with --store"
        )
    configs, reader = _encoders(models, folder, weights)
    extractor = FeatureExtractor([config for config, _ in configs], dtype=_dtype(models))
    for encoder, (_, spec) in zip(extractor.encoders, configs, strict=True):
        if isinstance(encoder, PatchEncoder):
            record_as(encoder, spec.encoder)
    module = PatchDataModule(folder / FEATURES, grid=grid, qc=False, **settings)
    writer = FeatureWriter()
    precision = models[0].record.features.precision or "32-true"
    arguments = {
        "precision": precision,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        **{key: value for key, value in options.items() if value is not None},
    }
    trainer = Trainer(**{**arguments, "callbacks": [writer, *(options.get("callbacks") or [])]})
    trainer.predict(extractor, module)
    failed = {
        slide_id: outcome.reason
        for slide_id, outcome in writer.outcomes.items()
        if outcome.state == "failed" or not outcome.n_patches
    }
    reader.store = FeatureStore.open(folder / FEATURES)
    chosen = [entry.slide_id for entry in module.entries() if entry.slide_id not in failed]
    return reader, sorted(chosen), failed


def _encoders(
    models: Sequence[SlideClassifier], folder: Path, weights: Path | None
) -> tuple[list[tuple[EncoderConfig, FeatureSpec]], "_Reader"]:
    """Each distinct encoder once, and the arrays that each model reads."""
    configs: list[tuple[EncoderConfig, FeatureSpec]] = []
    arrays: list[list[str]] = []
    for model in models:
        spec = model.record.features
        known = [c for c, other in configs if not spec.encoder.differs(other.encoder)]
        if known:
            config = known[0]
            held = config.depths if isinstance(config.depths, list) else []
            config.depths = [*held, *(d for d in spec.depths if d not in held)]
        else:
            config = build_model_encoder(model, folder / "encoders", weights)
            config.alias = f"{config.store_name}-{len(configs)}"
            configs.append((config, spec))
        arrays.append([feature_path(config.store_name, depth) for depth in spec.depths])
    return configs, _Reader(None, models, arrays)  # type: ignore[arg-type]


def _dtype(models: Sequence[SlideClassifier]) -> Any:
    return "float32" if any(m.record.features.dtype == "float32" for m in models) else "float16"


def _stored(store: FeatureStore, models: Sequence[SlideClassifier]) -> _Reader:
    """The arrays of a store that were made by the models' encoders."""
    found: dict[str, Any] = {}
    for slide_id in store.slide_ids():
        slide = store.slide(slide_id)
        found = {e: slide.info(feature_path(e, d)).attributes for e, d in slide.features()}
        if found:
            break
    reader = _Reader(store, models)
    for model in models:
        spec = model.record.features
        unlike = {
            name: spec.encoder.differs(encoder_spec(attributes, name), ignore=_NAMES)
            for name, attributes in found.items()
        }
        fitting = [name for name, wrong in unlike.items() if not wrong]
        if not fitting:
            told = "; ".join(f"{name}: {', '.join(wrong)}" for name, wrong in unlike.items())
            raise StoreMismatchError(
                f"{store.location} has no features of {model.name}, which reads "
                f"{model.features_in_words()} (model, not store): {told or 'it holds none'}"
            )
        reader.arrays.append([feature_path(fitting[0], depth) for depth in spec.depths])
    return reader


_NAMES = ("name", "weights.origin", "weights.kind", "weights.base")


def _columns(classes: Sequence[str], n_models: int) -> list[str]:
    several = [*(f"sd_{name}" for name in classes), "votes"] if n_models > 1 else []
    return ["slide_id", "patches", *(f"prob_{name}" for name in classes), "predicted", *several]


def _row(slide: StoredSlide, said: _ModelOutputs, classes: Sequence[str]) -> dict[str, Any]:
    """A row of predictions.csv; with several models their mean, spread and vote."""
    mean = said.probabilities.mean(0)  # (C,)
    best = int(mean.argmax())
    row: dict[str, Any] = {"slide_id": slide.slide_id, "patches": slide.n_patches}
    row |= {f"prob_{name}": float(p) for name, p in zip(classes, mean, strict=True)}
    row["predicted"] = classes[best]
    if len(said.probabilities) > 1:
        spread = said.probabilities.std(0, ddof=1)  # (C,)
        row |= {f"sd_{name}": float(sd) for name, sd in zip(classes, spread, strict=True)}
        agreeing = int((said.probabilities.argmax(1) == best).sum())
        row["votes"] = f"{agreeing} of {len(said.probabilities)}"
    return row
