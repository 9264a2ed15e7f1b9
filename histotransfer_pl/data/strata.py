"""What folds are balanced by where the target is no class: a ``label`` for the split."""

import pandas as pd

from histotransfer_pl.errors import SplitError


def event_strata(events: pd.Series) -> pd.Series:
    """``event`` or ``censored`` for each slide.

    Args:
        events: 1 or true where the event was seen, else 0 or false.

    Raises:
        SplitError: Other values, or no event.
    """
    seen = pd.to_numeric(events, errors="coerce")
    if not seen.isin([0, 1]).all():
        odd = events[~seen.isin([0, 1])].tolist()[0]
        raise SplitError(f"event is {odd!r}: expected 1 where the event was seen, 0 elsewhere")
    if not seen.any():
        raise SplitError(f"none of {len(seen)} slides has an event: there is nothing to learn")
    return seen.map({1: "event", 0: "censored"})


def quantile_strata(
    values: pd.Series, patients: pd.Series, n_folds: int, *, most: int = 5
) -> pd.Series:
    """The quantile of each slide's value, named ``q1``, ``q2``, ....

    Args:
        values: Target of each slide.
        patients: Its patient; each quantile keeps at least ``n_folds`` of them.
        n_folds: Number of folds to balance.
        most: Most quantiles.

    Raises:
        SplitError: A value that is no number, or all values equal.
    """
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any():
        odd = values[numbers.isna()].tolist()[0]
        raise SplitError(f"target {odd!r} is no number: a regression needs one per slide")
    if numbers.nunique() < 2:
        raise SplitError(f"all {len(numbers)} targets are {numbers.iloc[0]:g}: nothing to learn")
    for count in range(most, 1, -1):
        place = pd.qcut(numbers, count, labels=False, duplicates="drop")
        if patients.groupby(place).nunique().min() >= n_folds:
            return "q" + (place + 1).astype(int).astype(str)
    return pd.Series("q1", index=values.index)
