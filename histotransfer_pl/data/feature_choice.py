"""Which features of a store are read, and what they are."""

from collections.abc import Sequence
from typing import Literal

from histotransfer_pl.errors import StoreMismatchError
from histotransfer_pl.records.attributes import feature_spec
from histotransfer_pl.records.encoder import FeatureSpec
from histotransfer_pl.store.joined import Store


def choose_features(
    store: Store,
    encoder: str | None,
    depths: Sequence[str] | None,
    kind: Literal["features", "means"] = "features",
) -> tuple[str, list[str]]:
    """The encoder and depths asked for, or the only ones there are."""
    if encoder is not None and depths:
        return encoder, list(depths)
    found: list[tuple[str, str]] = []
    for slide_id in store.slide_ids():
        found = store.slide(slide_id).features(kind)
        if found:
            break
    fitting = [(e, d) for e, d in found if encoder in (None, e) and d in (depths or [d])]
    if len(fitting) != 1:
        listed = ", ".join(f"{encoder} at {depth}" for encoder, depth in found) or "nothing"
        raise StoreMismatchError(
            f"{store.location} holds {listed}; say which with --data.encoder and --data.depth"
        )
    return fitting[0][0], [fitting[0][1]]


def read_feature_spec(
    store: Store, arrays: Sequence[str], encoder: str, depths: Sequence[str], slide_id: str
) -> FeatureSpec:
    """What the arrays of a slide hold."""
    infos = [store.slide(slide_id).info(array) for array in arrays]
    return feature_spec(
        [info.attributes for info in infos],
        encoder,
        depths,
        sum(info.shape[1] for info in infos),
        infos[0].dtype.name,
    )
