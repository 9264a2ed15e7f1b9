"""Features for trained models: those of a store, or extracted from slides first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning import Trainer
from numpy.typing import NDArray

from histotransfer_pl.callbacks.feature_writer import FeatureWriter
from histotransfer_pl.data.covariates import encode_covariates
from histotransfer_pl.data.patches import PatchDataModule
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder
from histotransfer_pl.errors import ConfigError, StoreMismatchError
from histotransfer_pl.inference.encoder import build_model_encoder, record_as
from histotransfer_pl.records.attributes import encoder_spec
from histotransfer_pl.records.encoder import FeatureSpec
from histotransfer_pl.runs.model import SlideClassifier
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path
from histotransfer_pl.store.slide import StoredSlide
from histotransfer_pl.tasks.extract import FeatureExtractor

FEATURES = "features.zarr"
_NAMES = ("name", "weights.origin", "weights.kind", "weights.base")
"""What stores and records may call differently although the encoder is the same."""


@dataclass(frozen=True)
class BagResult:
    """What several models predict of one bag.

    Attributes:
        scores: (M, K), a row per model.
        attention: (N,), mean over the models.
    """

    scores: NDArray[np.float64]
    attention: NDArray[np.float64]


@dataclass(frozen=True)
class ModelReader:
    """Models, and where the features of each lie in a store."""

    store: FeatureStore
    models: Sequence[SlideClassifier]
    arrays: Sequence[Sequence[str]]

    def classify(
        self, slides: Sequence[StoredSlide], covariates: pd.DataFrame | None = None
    ) -> BagResult:
        """The models on all patches of some slides, taken as one bag.

        Args:
            slides: The slides.
            covariates: A row with the clinical covariates; None for models without.
        """
        results = []
        for model, arrays in zip(self.models, self.arrays, strict=True):
            specs = model.record.covariates
            own = None if covariates is None else encode_covariates(covariates, specs)[0]
            rows = [np.hstack([slide.read(array) for array in arrays]) for slide in slides]
            results.append(model.predict(np.concatenate(rows), own if specs else None))
        attention = np.mean([result.attention for result in results], axis=0)  # (N,)
        return BagResult(np.stack([result.scores for result in results]), attention)


def stored_features(store: FeatureStore, models: Sequence[SlideClassifier]) -> ModelReader:
    """The features of a store that the models' encoders made."""
    found: dict[str, Any] = {}
    for slide_id in store.slide_ids():
        slide = store.slide(slide_id)
        found = {e: slide.info(feature_path(e, d)).attributes for e, d in slide.features()}
        if found:
            break
    arrays = []
    for model in models:
        spec = model.record.features
        unlike = {
            name: spec.encoder.differs(encoder_spec(attributes, name), ignore=_NAMES)
            for name, attributes in found.items()
        }
        fitting = [name for name, wrong in unlike.items() if not wrong]
        if not fitting:
            listed = "; ".join(f"{name}: {', '.join(wrong)}" for name, wrong in unlike.items())
            raise StoreMismatchError(
                f"{store.location} has no features of {model.name}, which reads "
                f"{model.features_in_words()} (model, not store): {listed or 'it holds none'}"
            )
        arrays.append([feature_path(fitting[0], depth) for depth in spec.depths])
    return ModelReader(store, models, arrays)


def extract_features(
    models: Sequence[SlideClassifier],
    slides: Mapping[str, Any],
    folder: Path,
    weights: Path | None,
    options: Mapping[str, Any],
) -> tuple[ModelReader, list[str], dict[str, str]]:
    """Tile and encode what the folder does not hold yet.

    Args:
        models: The models.
        slides: Settings of `PatchDataModule`.
        folder: Where the features go.
        weights: File of the encoder's weights, where the model file does not hold them.
        options: Further arguments of the Trainer.
    """
    record = models[0].record
    if record.grid is None:
        raise ConfigError(
            f"{models[0].name} does not know how slides are cut into patches (imported features?): "
            "give features with --store"
        )
    encoders, arrays = _encoders(models, folder, weights)
    float32 = any(model.record.features.dtype == "float32" for model in models)
    extractor = FeatureExtractor(
        [config for config, _ in encoders], dtype="float32" if float32 else "float16"
    )
    for encoder, (_, spec) in zip(extractor.encoders, encoders, strict=True):
        if isinstance(encoder, PatchEncoder):
            record_as(encoder, spec.encoder)
    module = PatchDataModule(folder / FEATURES, grid=record.grid, qc=False, **slides)
    writer = FeatureWriter()
    arguments = {
        "precision": record.features.precision or "32-true",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        **{key: value for key, value in options.items() if value is not None},
        "callbacks": [writer, *(options.get("callbacks") or [])],
    }
    try:
        Trainer(**arguments).predict(extractor, module)
    except StoreMismatchError as error:
        raise StoreMismatchError(
            f"{folder} holds what other models or settings made, so give another out: {error}"
        ) from error
    failed = {
        slide_id: outcome.reason
        for slide_id, outcome in writer.outcomes.items()
        if outcome.state == "failed" or not outcome.n_patches
    }
    reader = ModelReader(FeatureStore.open(folder / FEATURES), models, arrays)
    return reader, [e.slide_id for e in module.entries() if e.slide_id not in failed], failed


def _encoders(
    models: Sequence[SlideClassifier], folder: Path, weights: Path | None
) -> tuple[list[tuple[EncoderConfig, FeatureSpec]], list[list[str]]]:
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
    return configs, arrays
