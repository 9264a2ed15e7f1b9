"""Cohorts with a known truth: slides of a patient resemble each other, as do two models."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri

from histotransfer_pl.analysis.predictions import Floats, Ints, Predictions, Task


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


def simulate_task(
    rng: np.random.Generator, task: Task, n_patients: int
) -> tuple[Predictions, Predictions]:
    """Two equally good models of another task, on one to three slides per patient.

    Each patient has a latent value; its time to event, its labels and its class follow from it,
    the target of a regression is the value of the slide.
    """
    patient = np.repeat(np.arange(n_patients), rng.integers(1, 4, n_patients))
    latent = rng.normal(size=(n_patients, 3))
    targets: NDArray[Any]
    if task == "survival":
        event, censored = rng.exponential(np.exp(-latent[:, 0])), rng.exponential(2, n_patients)
        targets = np.stack([np.minimum(event, censored), event <= censored], 1)[patient]
    elif task == "multilabel":
        targets = (latent + rng.normal(size=latent.shape) > 0).astype(float)[patient]
        targets[rng.random(targets.shape) < 0.2] = np.nan
    elif task == "ordinal":
        targets = np.digitize(latent[:, 0] + rng.normal(size=n_patients), [-1, 0, 1])[patient]
    else:
        targets = latent[patient, 0] + 0.5 * rng.normal(size=len(patient))
    shared = np.stack([_noise(rng, patient, 0.5) for _ in range(3)], 1)
    models = []
    for _ in range(2):
        own = np.stack([_noise(rng, patient, 0.5) for _ in range(3)], 1)
        seen = latent[patient] + 0.6 * (np.sqrt(0.6) * shared + np.sqrt(0.4) * own)  # (S, 3)
        scores = seen if task == "multilabel" else seen[:, 0]
        if task == "ordinal":
            apart = seen[:, :1] - np.array([-1.5, -0.5, 0.5, 1.5])
            scores = np.exp(-(apart**2)) / np.exp(-(apart**2)).sum(1, keepdims=True)
        ids = np.arange(len(patient)).astype(str)
        models.append(Predictions(ids, patient.astype(str), targets, scores, task=task))
    return models[0], models[1]


def _noise(rng: np.random.Generator, patient: Ints, patient_share: float) -> Floats:
    of_patient = rng.normal(size=int(patient.max()) + 1)[patient]
    of_slide = rng.normal(size=len(patient))
    noise = np.sqrt(patient_share) * of_patient + np.sqrt(1 - patient_share) * of_slide
    return np.asarray(noise)
