"""Clinical covariates of a table as numbers that a head can read."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histotransfer_pl.errors import CohortError, shorten
from histotransfer_pl.outcomes.words import clean_labels, sort_classes
from histotransfer_pl.records.run import CovariateSpec


def learn_covariates(training: pd.DataFrame, columns: Sequence[str]) -> tuple[CovariateSpec, ...]:
    """What the training part says of each column: mean and deviation, or the categories.

    Raises:
        CohortError: A column is empty or the same everywhere.
    """
    return tuple(_learn(training, column) for column in columns)


def encode_covariates(rows: pd.DataFrame, specs: Sequence[CovariateSpec]) -> NDArray[np.float32]:
    """Covariates (S, V): numbers in deviations from the training mean, categories as 0 and 1.

    What is missing is the mean of the training part, or none of the categories.
    """
    missing = [spec.column for spec in specs if spec.column not in rows]
    if missing:
        raise CohortError(
            f"the model reads the covariates {', '.join(spec.column for spec in specs)}, but the "
            f"table has no column {', '.join(missing)}: add it (a field may be empty)"
        )
    parts = [_encode(rows[spec.column], spec) for spec in specs]
    return np.concatenate([np.empty((len(rows), 0)), *parts], axis=1).astype(np.float32)


def width_of(specs: Sequence[CovariateSpec]) -> int:
    """How many numbers V they are."""
    return sum(len(spec.categories) or 1 for spec in specs)


def _learn(training: pd.DataFrame, column: str) -> CovariateSpec:
    words = clean_labels(training[column])
    known = words[words != ""]
    if known.nunique() < 2:
        held = f"{known.iloc[0]!r} everywhere" if len(known) else "empty"
        raise CohortError(
            f"covariate {column} is {held} in the training part ({len(words)} rows): leave it out "
            "of data.covariates"
        )
    numbers = pd.to_numeric(known, errors="coerce")
    if numbers.isna().any():
        return CovariateSpec(column, categories=tuple(sort_classes(known.unique().tolist())))
    return CovariateSpec(column, float(numbers.mean()), float(numbers.std(ddof=0)))


def _encode(values: pd.Series, spec: CovariateSpec) -> NDArray[np.float64]:
    words = clean_labels(values)
    if spec.categories:
        unknown = sorted(set(words) - {"", *spec.categories})
        if unknown:
            raise CohortError(
                f"covariate {spec.column} holds {shorten(unknown)}, which no patient of the "
                f"training part had; it knows {', '.join(spec.categories)}"
            )
        return np.stack([(words == name).to_numpy(float) for name in spec.categories], axis=1)
    numbers = pd.to_numeric(words, errors="coerce").to_numpy(float)
    wrong = np.isnan(numbers) & (words != "").to_numpy()
    if wrong.any():
        raise CohortError(f"covariate {spec.column} holds {words[wrong].iloc[0]!r}: give numbers")
    scaled = (numbers - spec.mean) / spec.deviation  # (S,)
    return np.where(np.isnan(scaled), 0.0, scaled)[:, None]
