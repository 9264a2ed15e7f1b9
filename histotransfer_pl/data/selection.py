"""Top-k selections: which patches of a slide are tuned on, and how they were chosen."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from histotransfer_pl.data.refusals import require_one_way
from histotransfer_pl.errors import StoreMismatchError, shorten
from histotransfer_pl.store.checksum import CHECKSUM
from histotransfer_pl.store.joined import Store
from histotransfer_pl.store.layout import COORDS, decode_key, selection_path
from histotransfer_pl.store.slide import StoredSlide

Rule = Literal["attention", "patch_logit", "random", "bottom", "uniform_grid"]
"""How patches are chosen: the highest attention, the highest patch logit, or a control."""

CONTROLS = ("random", "bottom", "uniform_grid")
_COORDS = "coords_checksum"
SCORED = ("attention", "patch_logit", "bottom")
"""Rules that rank by what a run said of the patches."""


SAME_FOR_ALL = ("rule", "seed", "checkpoint_sha256", "patch_class", "k", "pool")
"""What the selections of one name must agree in."""


@dataclass(frozen=True)
class Selection:
    """Patches of a slide in the order of preference.

    Attributes:
        candidates: (M,) rows, best first; the first k are the selection, those behind replace
            unreadable ones and are the pool of a refreshed selection.
        k: How many are wanted.
        attributes: Rule, run, checkpoint hash, seed and encoder.
    """

    candidates: NDArray[np.int32]
    k: int
    attributes: dict[str, Any]

    @property
    def rows(self) -> NDArray[np.int32]:
        """The selected rows (K,), best first; all rows of a slide with fewer than k."""
        return self.candidates[: self.k]

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Selection):
            return NotImplemented
        same = np.array_equal(self.candidates, other.candidates) and self.k == other.k
        return same and self.attributes == other.attributes

    __hash__ = None  # type: ignore[assignment]


def highest(scores: NDArray[np.floating[Any]], k: int) -> NDArray[np.int32]:
    """Rows (K,) of the k highest scores (N,), highest first; ties in the order of the rows."""
    return np.argsort(-scores, kind="stable")[:k].astype(np.int32)


def random_rows(n: int, k: int, seed: int, slide_id: str) -> NDArray[np.int32]:
    """K of n rows in random order; the same for a slide whatever else is in the store."""
    own = int.from_bytes(hashlib.sha256(slide_id.encode("utf-8", "surrogatepass")).digest()[:8])
    return np.random.default_rng([seed, own]).permutation(n)[:k].astype(np.int32)


def spread_rows(coords: NDArray[np.integer[Any]], k: int) -> NDArray[np.int32]:
    """K rows spread evenly over the tissue.

    Farthest-point order: the first is nearest to the middle of the tissue, and each further one
    is the patch farthest from all before it, so that every beginning of the list is spread too.

    Args:
        coords: (N, 2) top-left corners.
        k: How many.
    """
    points = coords.astype(np.float64)  # (N, 2)
    row = int(np.argmin(((points - points.mean(0)) ** 2).sum(1)))
    distance = np.full(len(points), np.inf)  # (N,) to the nearest chosen patch
    rows = []
    for _ in range(min(k, len(points))):
        rows.append(row)
        distance = np.minimum(distance, ((points - points[row]) ** 2).sum(1))
        distance[row] = -1  # chosen
        row = int(np.argmax(distance))
    return np.asarray(rows, np.int32)


def write_selection(
    slide: StoredSlide, name: str, selection: Selection, *, overwrite: bool = False
) -> None:
    """Save a selection beside the features it belongs to; the store must be open for writing."""
    attributes = {**selection.attributes, "k": selection.k, _COORDS: _coords_checksum(slide)}
    slide.write(selection_path(name), selection.candidates, attributes, overwrite=overwrite)


def read_selection(slide: StoredSlide, name: str) -> Selection:
    """The selection of a slide.

    Raises:
        StoreError: If there is none of this name.
        StoreMismatchError: If its rows do not belong to this slide.
    """
    array = selection_path(name)
    candidates: NDArray[np.int32] = slide.read(array)
    attributes = slide.info(array).attributes
    n = slide.n_patches
    made_for, here = attributes.get(_COORDS), _coords_checksum(slide)
    if made_for is not None and here is not None and made_for != here:
        raise StoreMismatchError(
            f"selection {name!r} of slide {slide.slide_id!r} was made for other patch coordinates "
            f"({made_for}) than this store has ({here}): it belongs to another store; run select "
            "again on this one"
        )
    unique = len(np.unique(candidates)) == len(candidates)
    if not unique or (len(candidates) and not 0 <= candidates.min() <= candidates.max() < n):
        raise StoreMismatchError(
            f"selection {name!r} of slide {slide.slide_id!r} names rows that its {n} patches do "
            "not have: it belongs to another store; run select again"
        )
    return Selection(candidates, int(attributes["k"]), attributes)


def read_selections(store: Store, name: str, slide_ids: list[str]) -> dict[str, Selection]:
    """The selections of slides, which must have been made in one way.

    Raises:
        StoreMismatchError: If a slide has none, or they differ in what they were made with, as
            after a `select` that was interrupted while it replaced another.
    """
    require_selection(store, name, slide_ids)
    found = {slide_id: read_selection(store.slide(slide_id), name) for slide_id in slide_ids}
    ways = {
        slide_id: ", ".join(f"{key} {selection.attributes.get(key)}" for key in SAME_FOR_ALL)
        for slide_id, selection in found.items()
    }
    remedy = "run select again with --overwrite true, or under another name"
    require_one_way(ways, f"selection {name!r} in {store.location}", remedy)
    return found


def require_selection(store: Store, name: str, slide_ids: list[str]) -> None:
    """Refuse a selection that slides lack, naming those that the store has.

    Raises:
        StoreMismatchError: If one of the slides has no selection of this name.
    """
    array = selection_path(name)
    lacking = [slide_id for slide_id in slide_ids if not store.slide(slide_id).has(array)]
    if lacking:
        found = ", ".join(selection_names(store, slide_ids)) or "none"
        raise StoreMismatchError(
            f"{store.location} has no selection {name!r} of {len(lacking)} training slides "
            f"({shorten(lacking)}); selections in this store: {found}. Make it: "
            f"select --run_dir ... --name {name}"
        )


def selection_names(store: Store, slide_ids: list[str]) -> list[str]:
    """Names of the selections of the first slides."""
    arrays = {array for slide_id in slide_ids[:20] for array in store.slide(slide_id).arrays()}
    names = [array.split("/")[1] for array in sorted(arrays) if array.startswith("selections/")]
    return [decode_key(name) for name in names]


def _coords_checksum(slide: StoredSlide) -> str | None:
    """Checksum of the coordinates; None where there are none, as in imported arrays."""
    if not slide.has(COORDS):
        return None
    checksum: str | None = slide.info(COORDS).attributes.get(CHECKSUM)
    return checksum
