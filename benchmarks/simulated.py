"""Cohorts with a known truth: slides of a patient resemble each other, as do two models."""

import numpy as np
from scipy.special import expit, logit, ndtri

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
    draw_classes: bool = False,
) -> tuple[Predictions, Predictions]:
    """Two models of the same true AUROC (but for `gap`) on one to three slides per patient.

    Args:
        rng: Source of the cohort.
        n_patients: Number of patients.
        area: True AUROC, of normal scores in each class.
        patient_share: Share of the variance of a score that is the patient's.
        model_share: Share of it that both models have in common.
        prevalence: Share of positive patients.
        gap: By how much the second model's AUROC is lower.
        draw_classes: Whether the number of positive patients is left to chance.
    """
    patient = np.repeat(np.arange(n_patients), rng.integers(1, 4, n_patients))
    positive = rng.random(n_patients) if draw_classes else np.arange(n_patients) / n_patients
    labels = (positive < prevalence).astype(np.int64)[patient]
    ids = [f"slide{number}" for number in range(len(patient))]
    shared = _noise(rng, patient, patient_share)
    models = []
    for true_area in (area, area - gap):
        own = _noise(rng, patient, patient_share)
        noise = np.sqrt(model_share) * shared + np.sqrt(1 - model_share) * own
        scores = np.sqrt(2) * ndtri(true_area) * labels + noise
        models.append(Predictions(ids, patient.astype(str), labels, scores))
    return models[0], models[1]


def calibrated(predictions: Predictions, area: float, prevalence: float) -> Predictions:
    """The same predictions with the true probability of class 1 as score."""
    shift = np.sqrt(2) * ndtri(area)
    scores = expit(shift * predictions.s - shift**2 / 2 + logit(prevalence))
    return Predictions(predictions.slide_ids, predictions.patients, predictions.y, scores)


def _noise(rng: np.random.Generator, patient: Ints, patient_share: float) -> Floats:
    of_patient = rng.normal(size=int(patient.max()) + 1)[patient]
    of_slide = rng.normal(size=len(patient))
    noise = np.sqrt(patient_share) * of_patient + np.sqrt(1 - patient_share) * of_slide
    return np.asarray(noise)
