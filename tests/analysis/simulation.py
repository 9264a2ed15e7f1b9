"""Cohorts with a known AUROC: slides of a patient resemble each other, as do two models."""

import numpy as np
from scipy.special import ndtri

from histotransfer_pl.analysis.predictions import Floats, Ints, Predictions


def simulate(
    rng: np.random.Generator,
    n_patients: int = 50,
    area: float = 0.8,
    *,
    patient_share: float = 0.5,
    model_share: float = 0.6,
    prevalence: float = 0.5,
    gap: float = 0.0,
) -> tuple[Predictions, Predictions]:
    """Two models of the same true AUROC (but for `gap`) on one to three slides a patient."""
    patient = np.repeat(np.arange(n_patients), rng.integers(1, 4, n_patients))
    labels = (np.arange(n_patients) < round(n_patients * prevalence)).astype(np.int64)[patient]
    ids = [f"slide{number}" for number in range(len(patient))]
    shared = _noise(rng, patient, patient_share)
    models = []
    for true_area in (area, area - gap):
        own = _noise(rng, patient, patient_share)
        noise = np.sqrt(model_share) * shared + np.sqrt(1 - model_share) * own
        scores = np.sqrt(2) * ndtri(true_area) * labels + noise
        models.append(Predictions(ids, patient.astype(str), labels, scores))
    return models[0], models[1]


def _noise(rng: np.random.Generator, patient: Ints, patient_share: float) -> Floats:
    of_patient = rng.normal(size=int(patient.max()) + 1)[patient]
    of_slide = rng.normal(size=len(patient))
    noise = np.sqrt(patient_share) * of_patient + np.sqrt(1 - patient_share) * of_slide
    return np.asarray(noise)
