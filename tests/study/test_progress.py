"""Estimates of the time that is left."""

import pytest

from histotransfer_pl.study.progress import duration, estimate
from histotransfer_pl.study.steps import Step


def test_estimate_is_the_median_of_each_kind() -> None:
    left = [Step(str(i), kind, ()) for i, kind in enumerate(["fit", "fit", "test"])]
    found = estimate(left, {"fit": [1.0, 100.0, 4.0], "test": [2.0]})
    assert found.seconds == 4 + 4 + 2
    assert found.describe() == "about 10 s left"
    assert estimate(left, {"fit": [5.0]}).describe() == "more than 10 s left"
    assert estimate(left, {}).describe() == "time left unknown yet"


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (125, "2 min"), (3 * 3600 + 1200, "3 h 20 min")]
)
def test_durations_are_said_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text
