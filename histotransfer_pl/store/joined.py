"""Several stores read as one."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from histotransfer_pl.errors import StoreError, StoreMismatchError
from histotransfer_pl.records.record import differences
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.metadata import Json
from histotransfer_pl.store.slide import StoredSlide

StoreLocation = str | Path


class JoinedStores:
    """Stores of one grid whose slides differ, for reading.

    Raises:
        StoreMismatchError: The stores have different grids, or a slide is in two of them.
    """

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self.stores = list(stores)
        first = self.stores[0]
        for other in self.stores[1:]:
            wrong = differences({"grid": first.grid}, {"grid": other.grid})
            if wrong:
                raise StoreMismatchError(
                    f"{first.location} and {other.location} have different patch grids: "
                    f"{'; '.join(wrong)}; give stores of one grid"
                )
        self.grid: Json | None = first.grid

    @property
    def location(self) -> str:
        """The folders or URLs as text."""
        return ", ".join(store.location for store in self.stores)

    @cached_property
    def _owners(self) -> dict[str, FeatureStore]:
        owners: dict[str, FeatureStore] = {}
        for store in self.stores:
            for slide_id in store.slide_ids():
                other = owners.setdefault(slide_id, store)
                if other is not store:
                    raise StoreMismatchError(
                        f"slide {slide_id!r} is in {other.location} and in {store.location}: "
                        "give stores of different slides"
                    )
        return owners

    def slide_ids(self) -> list[str]:
        """The slides of all stores, sorted."""
        return sorted(self._owners)

    def __contains__(self, slide_id: object) -> bool:
        return slide_id in self._owners

    def slide(self, slide_id: str) -> StoredSlide:
        """A slide by its id."""
        return self.owner(slide_id).slide(slide_id)

    def owner(self, slide_id: str) -> FeatureStore:
        """The store that holds a slide; the first for one that none holds."""
        return self._owners.get(slide_id, self.stores[0])


Store = FeatureStore | JoinedStores


def open_stores(locations: StoreLocation | Sequence[StoreLocation]) -> Store:
    """Open one store, or several as one.

    Raises:
        StoreError: No location is given, or there is no store at one.
        StoreMismatchError: They do not fit together.
    """
    if isinstance(locations, str | Path):
        return FeatureStore.open(locations)
    if not locations:
        raise StoreError("data.store names no store: give at least one")
    stores = [FeatureStore.open(location) for location in locations]
    return stores[0] if len(stores) == 1 else JoinedStores(stores)


def open_store(location: StoreLocation) -> FeatureStore:
    """Open a store: ``len(store)``, ``store[slide_id]``, and iteration over its slides.

    Raises:
        StoreError: There is no store.
    """
    return FeatureStore.open(location)


def store_of(store: Store, slide_id: str) -> FeatureStore:
    """The store that holds a slide."""
    return store.owner(slide_id) if isinstance(store, JoinedStores) else store
