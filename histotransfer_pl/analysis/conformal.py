"""Sets of classes that hold the true one with a chosen probability, and when to abstain.

Split conformal prediction: the validation part says how small the probability of the true class
can be; every class that is not less probable belongs to the set.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.analysis.targets import Floats, Ints, Names
from histotransfer_pl.errors import AnalysisError


@dataclass(frozen=True)
class ConformalSets:
    """The rule that makes sets.

    Attributes:
        threshold: A class belongs to the set when its probability is at least 1 less this.
        error: Share of new patients' slides whose set may lack the true class.
        n_patients: Patients that the threshold rests on.
    """

    threshold: float
    error: float
    n_patients: int

    @classmethod
    def fit(
        cls, probabilities: Floats, labels: Ints, patients: Names, *, error: float = 0.1
    ) -> Self:
        """The threshold of the validation part (Sadinle et al. 2019).

        Each patient counts once, in equal parts over its slides (Lee et al. 2023, hierarchical
        conformal prediction): the promise is for a slide of a new patient. With one slide per
        patient this is the usual quantile at rank (n + 1) (1 - error).

        Args:
            probabilities: (S, C) of slides the model was not trained on.
            labels: (S,) true classes.
            patients: (S,) their patients.
            error: Chosen error, such as 0.1.

        Raises:
            AnalysisError: Too few patients for so small an error.
        """
        if not 0 < error < 1:
            raise AnalysisError(f"error is {error}: give a share between 0 and 1, such as 0.1")
        _, place, counts = np.unique(patients, return_inverse=True, return_counts=True)
        n = len(counts)
        if (n + 1) * error < 1:
            raise AnalysisError(
                f"{n} patients cannot promise an error of {error:g}: it needs at least "
                f"{int(np.ceil(1 / error)) - 1}"
            )
        scores = 1 - probabilities[np.arange(len(labels)), labels]  # (S,)
        order = np.argsort(scores)
        mass = np.cumsum(1 / counts[place[order]]) / (n + 1)  # (S,)
        # rounding must not ask for one score more
        found = int(np.searchsorted(mass, 1 - error - 1e-12))
        return cls(float(scores[order][found]), error, n)

    def sets(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Which classes belong to the set of each slide, (S, C); a set may be empty."""
        return 1 - probabilities <= self.threshold + 1e-12

    def abstains(self, probabilities: Floats) -> NDArray[np.bool_]:
        """Slides (S,) whose set names no class or several: a pathologist should decide."""
        return np.asarray(self.sets(probabilities).sum(1) != 1)
