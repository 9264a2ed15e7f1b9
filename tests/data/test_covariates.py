"""Clinical covariates as numbers: by the training part, and with a line for what does not fit."""

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.data.covariates import encode_covariates, learn_covariates, width_of
from histotransfer_pl.errors import CohortError
from histotransfer_pl.records.run import CovariateSpec

TRAIN = pd.DataFrame({"age": [40, 60, np.nan], "sex": ["f", "m", ""], "grade": [1, 1, 1]})


def test_numbers_are_scaled_and_words_are_inputs_of_their_own() -> None:
    specs = learn_covariates(TRAIN, ["age", "sex"])
    assert specs == (CovariateSpec("age", 50, 10), CovariateSpec("sex", categories=("f", "m")))
    assert width_of(specs) == 3
    rows = pd.DataFrame({"age": [70, np.nan], "sex": ["m", ""]})
    np.testing.assert_array_equal(encode_covariates(rows, specs), [[2, 0, 1], [0, 0, 0]])
    assert encode_covariates(rows, ()).shape == (2, 0)


def test_what_does_not_fit_is_one_line() -> None:
    specs = learn_covariates(TRAIN, ["age", "sex"])
    with pytest.raises(CohortError, match="reads the covariates age, sex, but the table has no"):
        encode_covariates(TRAIN[["sex"]], specs)
    with pytest.raises(CohortError, match="sex holds 'x', which no patient of the training part"):
        encode_covariates(pd.DataFrame({"age": [1], "sex": ["x"]}), specs)
    with pytest.raises(CohortError, match="age holds 'old': give numbers"):
        encode_covariates(pd.DataFrame({"age": ["old"], "sex": ["f"]}), specs)
    with pytest.raises(CohortError, match="covariate grade is '1' everywhere in the training part"):
        learn_covariates(TRAIN, ["grade"])
