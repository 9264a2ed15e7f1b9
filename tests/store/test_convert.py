"""What may be stored: the test of the bits against NumPy, for every number that float16 has."""

import numpy as np
import pytest

from histotransfer_pl.store.convert import all_finite

EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def test_every_float16_is_judged_as_numpy_does() -> None:
    finite = np.isfinite(EVERY)
    assert [all_finite(EVERY[i : i + 1]) for i in range(len(EVERY))] == finite.tolist()
    assert all_finite(EVERY[finite])


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "f4", "f8"])
@pytest.mark.parametrize("place", [0, 131_071, 131_072, 299_999])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_is_found_wherever_it_is(dtype: str, place: int, bad: float) -> None:
    values = np.ones((100_000, 3), dtype)
    assert all_finite(values)
    values.flat[place] = bad
    assert not all_finite(values)
    assert all_finite(values[:, ::2]) == (place % 3 == 1)
    assert all_finite(values[:0])
