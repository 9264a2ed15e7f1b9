"""What must not be trained on or tested with: mixtures, missing classes, patients seen before."""

from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from histotransfer_pl.data.splits import Split
from histotransfer_pl.errors import SplitError, StoreMismatchError, shorten
from histotransfer_pl.outcomes.kinds import TargetColumns
from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.records.attributes import tuned_on
from histotransfer_pl.records.run import RunRecord, TargetSpec
from histotransfer_pl.store.joined import Store


def require_targets(bags: pd.DataFrame, slides: pd.DataFrame, kind: type[Outcome]) -> pd.DataFrame:
    """The same bags of patients, if those to train on and to choose by can be told apart."""
    for part in ("train", "validation"):
        lacks = kind.lacks(bags[bags["part"] == part], slides, learning=part == "train")
        if lacks:
            words = lacks.replace("slide", "patient")
            raise SplitError(
                f"the {part} part has {words}: use fewer folds, another split_seed, or bags of "
                "slides"
            )
    return bags


def require_one_way(ways: Mapping[str, str], what: str, remedy: str) -> None:
    """Refuse what stands under one name and was made in several ways."""
    slides: dict[str, list[str]] = {}
    for slide_id, way in ways.items():
        slides.setdefault(way, []).append(slide_id)
    if len(slides) > 1:
        said = "; ".join(f"{way}: {shorten(names)}" for way, names in slides.items())
        raise StoreMismatchError(f"{what} was not made in one way ({said}): {remedy}")


def require_same_encoder(store: Store, arrays: Sequence[str], slide_ids: Sequence[str]) -> None:
    """Refuse features that are not all of one network, as after an extraction in two parts.

    Raises:
        StoreMismatchError: It names slides of each.
    """
    for array in arrays:
        infos = {slide_id: store.slide(slide_id).info(array) for slide_id in slide_ids}
        require_one_way(
            {
                s: f"{info.shape[1]} wide, weights {info.attributes.get('weights_sha256', '')}"
                for s, info in infos.items()
            },
            f"{array} in {store.location}",
            "extract all slides with the same weights, under another alias",
        )


def refuse_seen_patients(store: Store, array: str, labelled: pd.DataFrame, split: Split) -> None:
    """Refuse features of an encoder that was tuned on patients of the test or validation part.

    Patients on whom the tuned encoder was chosen (its epoch) may validate again, but not test.
    """
    tuned = tuned_on(store.slide(labelled["slide_id"].iloc[0]).info(array).attributes)
    if tuned is None:
        return
    owners = labelled.set_index("slide_id")["patient_id"]
    test, validation = set(owners[split.test]), set(owners[split.validation])
    leaked = _leaked(tuned.train_patients, tuned.validation_patients, validation, test)
    if leaked:
        raise SplitError(
            f"{array} comes from an encoder tuned on {len(leaked)} patients that are in the "
            f"validation or test part here: {shorten(leaked)}; use the fold it was tuned on "
            f"(tuned fold: {'unknown' if tuned.fold is None else tuned.fold})"
        )


def refuse_trained_patients(trained: RunRecord, validation: set[str], test: set[str]) -> None:
    """Refuse a model that has seen patients of the test or validation part."""
    leaked = _leaked(trained.train_patients, trained.validation_patients, validation, test)
    if leaked:
        raise SplitError(
            f"the model was trained on {len(leaked)} of the patients to validate or test on "
            f"({shorten(leaked)}): for its own cohort use its fold, n_folds and split_seed; from "
            "another table leave these patients out"
        )


def refuse_other_task(asked: TargetColumns, target: TargetSpec) -> None:
    """Refuse another kind of target than that of a trained model."""
    if asked.task != target.task:
        raise SplitError(
            f"the model predicts {target.column} ({target.task}), but data.task is {asked.task}: "
            f"give a model of this task, or data.task {target.task} with its data.target"
        )


def _leaked(
    seen: Collection[str], chosen: Collection[str], validation: set[str], test: set[str]
) -> list[str]:
    """Patients to evaluate who were seen in training, or who chose the epoch and are to test."""
    return sorted((set(seen) & (test | validation)) | (set(chosen) & test))
