import numpy as np
import pytest

from histotransfer_pl.analysis.multiplicity import holm
from histotransfer_pl.errors import AnalysisError


def by_hand(values: list[float]) -> list[float]:
    """Step down: the smallest times m, the next times m - 1, never falling, at most one."""
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(np.argsort(values)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = highest
    return adjusted


@pytest.mark.parametrize("values", [[0.01, 0.04, 0.03, 0.005], [0.5, 0.9], [0.2], [0.0, 1.0]])
def test_equals_the_definition(values: list[float]) -> None:
    names = [f"pair {place}" for place in range(len(values))]
    adjusted = holm(dict(zip(names, values, strict=True)))
    assert list(adjusted) == names
    assert list(adjusted.values()) == pytest.approx(by_hand(values))


def test_a_study_without_comparisons_is_fine() -> None:
    assert holm({}) == {}


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_what_is_no_p_value_is_refused(value: float) -> None:
    with pytest.raises(AnalysisError, match="not p-values: a - b"):
        holm({"a - b": value})
