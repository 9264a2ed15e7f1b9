"""How sure one can be of a prediction: calibrated probabilities, and sets at a chosen error."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.analysis.conformal import prediction_sets, require_enough
from histotransfer_pl.errors import AnalysisError, ConfigError
from histotransfer_pl.runs.model import SlideClassifier

SET = "prediction_set"
BETWEEN = " | "


def require_sets(models: Sequence[SlideClassifier], error: float | None) -> None:
    """Refuse an error that the models cannot promise, before any slide is read.

    Raises:
        ConfigError: A model has no calibration, or too few validation patients.
    """
    if error is None:
        return
    for model in models:
        try:
            require_enough(model.require_calibration().n_patients, error)
        except AnalysisError as refused:
            raise ConfigError(f"{model.name}: {refused}") from refused


def certainty_columns(models: Sequence[SlideClassifier], error: float | None) -> list[str]:
    """What ``certainty_cells`` adds to a table."""
    known = all(model.calibration is not None for model in models)
    calibrated = [f"calibrated_{name}" for name in models[0].classes if known]
    return [*calibrated, *([] if error is None else [SET])]


def certainty_cells(
    models: Sequence[SlideClassifier], scores: NDArray[np.float64], error: float | None
) -> dict[str, Any]:
    """Calibrated probabilities and the set of a slide; nothing for models without calibration.

    Args:
        models: The models; of several the calibrated probabilities, and the p-values that make
            the set, are means.
        scores: (M, K), a row per model.
        error: Share of new patients' slides whose set may lack the true class; None for no set.
    """
    if any(model.calibration is None for model in models):
        return {}
    pairs = list(zip(models, scores, strict=True))
    chances = np.mean([model.calibrated(row) for model, row in pairs], axis=0)  # (K,)
    cells: dict[str, Any] = {
        f"calibrated_{name}": float(chance)
        for name, chance in zip(models[0].classes, chances, strict=True)
    }
    if error is not None:
        p = np.mean([model.p_values(row) for model, row in pairs], axis=0)  # (K,)
        inside = prediction_sets(p, error)
        cells[SET] = BETWEEN.join(np.array(models[0].classes)[inside].tolist())
    return cells


def set_in_words(found: str) -> str:
    """The set of a slide, and whether it decides."""
    names = found.split(BETWEEN)
    if len(names) > 1:
        return f"abstains: {' or '.join(names)}"
    return f"set: {found}" if found else "abstains: like no class"


def basis_in_words(models: Sequence[SlideClassifier], error: float | None) -> str:
    """What calibrated probabilities and sets rest on, or why there are none."""
    if models[0].outcome.task != "classification":
        return ""
    missing = next((model for model in models if model.calibration is None), None)
    if missing is not None:
        return f"no calibrated probabilities: {missing.name}: {missing.uncalibrated}"
    rest = "; ".join(model.require_calibration().in_words() for model in models)
    sets = "" if error is None else f" and sets with an error of {error:g}"
    return f"calibrated probabilities{sets} rest on {rest}"
