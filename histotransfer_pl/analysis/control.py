"""What one model has over the mean of several controls, such as networks with random weights."""

from collections.abc import Sequence

import numpy as np

from histotransfer_pl.analysis.bootstrap import Interval, by_patient, interval_of
from histotransfer_pl.analysis.metrics import Metric, auroc
from histotransfer_pl.analysis.predictions import Floats, Predictions, align, check_enough
from histotransfer_pl.errors import AnalysisError


def gap_to_controls(
    own: Predictions,
    controls: Sequence[Predictions],
    metric: Metric = auroc,
    *,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Metric of a model minus the mean metric of its controls, on the same patients.

    Patients are resampled, the controls are not: the interval is for these very networks. Whether
    others would do the same is told by their spread, not by it.

    Args:
        own: Predictions of the model.
        controls: Those of the controls for the same slides, in any order.
        metric: What is compared.
        level: Confidence level of the BCa interval.
        n_resamples: Number of resamples.
        seed: Seed of the draw.

    Raises:
        AnalysisError: No controls; other slides, labels, patients or folds; too few patients; or a
            gap that is the same whatever the patients.
    """
    if not controls:
        raise AnalysisError("no controls to compare with: give at least one")
    check_enough(own)
    of_own = by_patient(own, metric)
    of_controls = [by_patient(align(own, control), metric) for control in controls]

    def gap(counts: Floats) -> Floats:
        mean: Floats = np.mean([of_control(counts) for of_control in of_controls], axis=0)
        return of_own(counts) - mean

    return interval_of(
        gap,
        own.patient_groups,
        own.n_slides,
        level=level,
        n_resamples=n_resamples,
        seed=seed,
    )
