"""Mean features of slides at every depth of an encoder, with their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.data.join import join_cohort
from histotransfer_pl.errors import CohortError, StoreMismatchError, shorten
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path, mean_path


@dataclass(frozen=True, eq=False)
class LabelledSlides:
    """Slides with a label and features.

    Attributes:
        store: Where the features are.
        slide_ids: The slides.
        labels: (S,) index of each slide's class.
        classes: Names of the classes.
        groups: (S,) patient of each slide.
    """

    store: FeatureStore
    slide_ids: list[str]
    labels: NDArray[np.int64]
    classes: list[str]
    groups: NDArray[np.str_]

    def means(self, encoder: str, depths: Sequence[str]) -> dict[str, NDArray[np.floating[Any]]]:
        """Mean over the patches of each slide (S, D), at each depth."""
        return mean_features(self.store, self.slide_ids, encoder, depths)

    def facts(self, encoder: str, depth: str) -> dict[str, Any]:
        """What the store says of these features."""
        slide = self.store.slide(self.slide_ids[0])
        paths = [feature_path(encoder, depth), mean_path(encoder, depth)]
        return dict(slide.info(next(filter(slide.has, paths), paths[0])).attributes)


def mean_features(
    store: FeatureStore, slide_ids: Sequence[str], encoder: str, depths: Sequence[str]
) -> dict[str, NDArray[np.floating[Any]]]:
    """Mean over the patches of each slide (S, D), at each depth.

    Raises:
        StoreMismatchError: A slide lacks features of the encoder.
    """
    slides = [store.slide(slide_id) for slide_id in slide_ids]
    found: dict[str, NDArray[np.floating[Any]]] = {}
    for depth in depths:
        array, mean = feature_path(encoder, depth), mean_path(encoder, depth)
        lacking = [s.slide_id for s in slides if not (s.has(array) or s.has(mean))]
        if lacking:
            pairs = ", ".join(f"{name} at {at}" for name, at in slides[0].features())
            raise StoreMismatchError(
                f"{len(lacking)} of {len(slides)} slides have no {array} in "
                f"{store.location}: {shorten(lacking)}; run extract with this encoder "
                f"and depth (the store has {pairs or 'no features'})"
            )
        rows = [
            slide.read(mean)[0] if slide.has(mean) else slide.read(array).mean(0, dtype=np.float32)
            for slide in slides
        ]
        found[depth] = np.stack(rows)  # (S, D)
    return found


def stored_array(store: FeatureStore, encoder: str, depth: str) -> str:
    """Path of the features, or of their means where the store holds these."""
    first = next(iter(store.slide_ids()), None)
    mean = mean_path(encoder, depth)
    has_means = first is not None and store.slide(first).has(mean)
    return mean if has_means else feature_path(encoder, depth)


def labelled_slides(
    store: Path,
    cohort: Path,
    target: str,
    encoder: str,
    depths: Sequence[str],
    *,
    strict: bool = True,
) -> LabelledSlides:
    """Join a cohort table with the features of an encoder.

    Raises:
        CohortError: A missing column, nothing to join, or a single class.
        StoreMismatchError: Features that the store does not have.
    """
    opened = FeatureStore.open(store)
    array = stored_array(opened, encoder, depths[-1])
    join = join_cohort(cohort, opened, [array], target, strict=strict)
    if len(join.classes) < 2:
        raise CohortError(
            f"{cohort}: column {target} has only the class {join.classes}; a probe needs two"
        )
    number = {name: i for i, name in enumerate(join.classes)}
    rows = join.labelled
    return LabelledSlides(
        store=opened,
        slide_ids=rows["slide_id"].tolist(),
        labels=np.array([number[name] for name in rows["label"]], np.int64),
        classes=join.classes,
        groups=rows["patient_id"].to_numpy(str),
    )
