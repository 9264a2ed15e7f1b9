"""Which slides make a bag, of which class, in which part."""

import pandas as pd

from histotransfer_pl.data.refusals import require_targets
from histotransfer_pl.data.splits import PARTS, Split
from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.records.run import Bag, RunRecord

EXTERNAL = "external"
"""Part of a slide whose patient the model has never seen and no split names."""


def bag_table(slides: pd.DataFrame, split: Split, bag: Bag, outcome: Outcome) -> pd.DataFrame:
    """One row per bag of a cohort that is split: bag_id, slide_ids, patient_id, label and part.

    Raises:
        CohortError: The slides of a patient contradict one another.
        SplitError: A class is missing among the patients to train on or to choose by.
    """
    parts = {slide_id: name for name in PARTS for slide_id in split.part(name)}
    table = _bags(slides.assign(part=slides["slide_id"].map(parts).fillna("")), bag, outcome)
    if bag == "slide":
        return table
    return require_targets(table, slides[slides["label"] != ""], type(outcome))


def new_bag_table(
    slides: pd.DataFrame, trained: RunRecord | None, bag: Bag, outcome: Outcome, part: str
) -> pd.DataFrame:
    """The same of slides that a trained model evaluates.

    Args:
        slides: Usable slides, as of `Join.slides`.
        trained: What the model knows of its training; its patients get the part they were in.
        bag: What a bag holds.
        outcome: What is predicted, and what makes it of a patient.
        part: Part of all other slides; only those with a label get one that is not `EXTERNAL`.
    """
    known: dict[str, str] = {}
    if trained is not None:
        known = dict.fromkeys(trained.validation_patients, "validation")
        known |= dict.fromkeys(trained.train_patients, "train")
    parts = slides["patient_id"].map(lambda patient: known.get(patient, part))
    if part != EXTERNAL:
        parts = parts.where(slides["label"] != "", "")
    return _bags(slides.assign(part=parts), bag, outcome)


def _bags(slides: pd.DataFrame, bag: Bag, outcome: Outcome) -> pd.DataFrame:
    """Slides with their part -> bags."""
    if bag == "slide":
        return slides.assign(
            bag_id=slides["slide_id"], slide_ids=slides["slide_id"].map(lambda s: [s])
        )
    rows = [
        {
            **own.iloc[0].to_dict(),  # what a patient has one of: its site, its covariates
            "bag_id": patient,
            "slide_ids": own["slide_id"].tolist(),
            **outcome.of_patient(own),
            "part": next((part for part in own["part"] if part), ""),
        }
        for patient, own in slides.groupby("patient_id")
    ]
    return pd.DataFrame(rows)
