"""What must not be trained on or tested with: mixtures, missing classes, patients seen before."""

from collections.abc import Mapping

import pandas as pd

from histotransfer_pl.data.cohort import shorten
from histotransfer_pl.data.splits import Split
from histotransfer_pl.errors import SplitError, StoreMismatchError
from histotransfer_pl.store.feature_store import FeatureStore


def require_classes(bags: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """The same bags, if those to train on and to choose by are of every class.

    Raises:
        SplitError: If a class is missing there.
    """
    for part in ("train", "validation"):
        found = set(bags.loc[bags["part"] == part, "label"])
        missing = [name for name in classes if name not in found]
        if missing:
            raise SplitError(
                f"the {part} part has no patient of class {shorten(missing)}: use fewer folds, "
                "another split_seed, or bags of slides"
            )
    return bags


def require_one_way(ways: Mapping[str, str], what: str, remedy: str) -> None:
    """Refuse what stands under one name and was made in several ways.

    Args:
        ways: How it was made for each slide.
        what: Its name, for the message.
        remedy: What to do.

    Raises:
        StoreMismatchError: It names slides of each way.
    """
    slides: dict[str, list[str]] = {}
    for slide_id, way in ways.items():
        slides.setdefault(way, []).append(slide_id)
    if len(slides) > 1:
        said = "; ".join(f"{way}: {shorten(names)}" for way, names in slides.items())
        raise StoreMismatchError(f"{what} was not made in one way ({said}): {remedy}")


def require_same_encoder(store: FeatureStore, array: str, slide_ids: list[str]) -> None:
    """Refuse features that are not all of one network, as after an extraction in two parts.

    Raises:
        StoreMismatchError: It names slides of each.
    """
    infos = {slide_id: store.slide(slide_id).info(array) for slide_id in slide_ids}
    require_one_way(
        {
            slide_id: f"{info.shape[1]} wide, weights {info.attributes.get('weights_sha256', '')}"
            for slide_id, info in infos.items()
        },
        f"{array} in {store.location}",
        "extract all slides with the same weights, under another alias",
    )


def refuse_seen_patients(
    store: FeatureStore, array: str, labelled: pd.DataFrame, split: Split
) -> None:
    """Refuse features of an encoder that was tuned on patients of the test or validation part.

    Patients on whom the tuned encoder was chosen (its epoch) may validate again, but not test.

    Raises:
        SplitError: If a patient to evaluate was used to tune the encoder.
    """
    facts = store.slide(labelled["slide_id"].iloc[0]).info(array).attributes
    owners = labelled.set_index("slide_id")["patient_id"]
    test, validation = set(owners[split.test]), set(owners[split.validation])
    tuned_on = set(facts.get("tuned_on_patients", []))
    chosen_on = set(facts.get("tuned_validation_patients", []))
    leaked = sorted((tuned_on & (test | validation)) | (chosen_on & test))
    if leaked:
        raise SplitError(
            f"{array} comes from an encoder tuned on {len(leaked)} patients that are in the "
            f"validation or test part here: {shorten(leaked)}; use the fold it was tuned on "
            f"(tuned fold: {facts.get('tuned_fold', 'unknown')})"
        )
