"""Feature files of other programs: CLAM, TRIDENT and STAMP (HDF5), and plain tensors (.pt).

| Program | Features | Coordinates | What it records |
|---|---|---|---|
| CLAM | `features` (N, D) float32 | `coords` (N, 2), level-0 pixels | nothing, or `patch_size` |
| TRIDENT | `features` (N, D) or (1, N, D) | `coords`, level-0 pixels | `patch_size`, `patch_size_level0`, magnifications |
| STAMP | `feats` (N, D) float16 | `coords` (N, 2) float32, micrometres | `unit`, `tile_size_um` (`tile_size` before 2.1), `extractor` |
| `.pt` | a tensor (N, D) | none | nothing |

What a file says beside the numbers is kept, so that writing it again in the same format gives
equal arrays of equal type, shape and order, with equal attributes.
"""  # noqa: E501 - a table

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.errors import StoreError
from histotransfer_pl.records.files import replacing
from histotransfer_pl.store.metadata import Json

FeatureFormat = Literal["h5", "clam", "trident", "stamp", "pt"]
SUFFIXES = (".h5", ".hdf5", ".pt")
_FEATURES = {"clam": "features", "trident": "features", "stamp": "feats"}


@dataclass(frozen=True, eq=False)
class ForeignFeatures:
    """One slide's features as another program wrote them.

    Attributes:
        features: (N, D).
        coords: (N, 2) top-left corners as in the file, in ``unit``; None without coordinates.
        unit: ``px`` of level 0 or ``um``.
        patch_size: Side of a patch in ``unit``, if the file says it.
        slide_mpp: Micrometres per pixel of level 0 as far as the file says it: from the
            magnification, so 40x gives 0.25.
        record: How to write the file again: format, types, attributes.
    """

    features: NDArray[Any]
    coords: NDArray[Any] | None
    unit: Literal["px", "um"]
    patch_size: float | None
    slide_mpp: float | None
    record: Json = field(repr=False)

    def patch_size_level0(self, slide_mpp: float | None) -> float | None:
        """Side of a patch in level-0 pixels; taken from the spacing of the grid if not said."""
        if self.patch_size is not None:
            return self.patch_size if self.unit == "px" else self.patch_size / (slide_mpp or 1)
        if self.coords is None or len(self.coords) < 2:
            return None
        steps = np.concatenate([np.diff(np.unique(axis)) for axis in self.coords.T])
        step = float(steps.min()) if len(steps) else 0.0
        return (step if self.unit == "px" else step / (slide_mpp or 1)) or None

    def coords_level0(self, slide_mpp: float | None) -> NDArray[np.int32] | None:
        """Top-left corners (N, 2) in level-0 pixels.

        Raises:
            StoreError: They are in micrometres and the slide's mpp is unknown, or do not fit.
        """
        if self.coords is None:
            return None
        if self.unit == "px":
            whole = np.round(self.coords).astype(np.int64)
            if not np.array_equal(whole, self.coords):
                raise StoreError("coordinates in pixels that are not whole numbers")
        elif slide_mpp is None:
            raise StoreError(
                "coordinates in micrometres: the slide's mpp is needed, in the cohort's column mpp "
                "or from its file (--slides)"
            )
        else:
            whole = np.round(self.coords.astype(np.float64) / slide_mpp).astype(np.int64)
        if whole.size and (whole.min() < 0 or whole.max() > np.iinfo(np.int32).max):
            raise StoreError(f"coordinates from {whole.min()} to {whole.max()}: no level-0 pixels")
        return whole.astype(np.int32)


def read_foreign(path: Path) -> ForeignFeatures:
    """Read a file; its format is told by what it holds."""
    found = _read_tensor(path) if path.suffix == ".pt" else _read_h5(path)
    if found.features.ndim != 2 or found.features.dtype.kind not in "fiu":
        raise StoreError(
            f"{path}: features of shape {found.features.shape} and type {found.features.dtype}; "
            "expected numbers (N, D)"
        )
    if found.coords is not None and found.coords.shape != (len(found.features), 2):
        raise StoreError(
            f"{path}: {len(found.features)} features and coordinates of shape "
            f"{found.coords.shape}; expected one row (x, y) per patch"
        )
    return found


def write_foreign(
    path: Path,
    features: NDArray[Any],
    coords: NDArray[np.int32] | None,
    facts: Mapping[str, Any],
    kind: FeatureFormat,
) -> None:
    """Write one slide's features for another program; the file appears whole or not at all.

    Args:
        path: The file.
        features: (N, D).
        coords: (N, 2) level-0 pixels.
        facts: Attributes of the slide in the store, with what was ``imported`` if it was.
        kind: The program.

    Raises:
        StoreError: The program needs coordinates or an mpp that the store does not have.
    """
    with replacing(path) as aside:
        if kind != "pt":
            _write_h5(aside, features, coords, facts, kind)
            return
        import torch

        with aside.open("wb") as file:  # given a path, its name would go into the file
            torch.save(torch.from_numpy(np.array(features)), file)


def _read_tensor(path: Path) -> ForeignFeatures:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StoreError(f"{path} is no file of tensors ({reason})") from error
    if not isinstance(content, torch.Tensor):
        raise StoreError(f"{path} holds a {type(content).__name__}; expected one tensor (N, D)")
    if content.dtype == torch.bfloat16:
        content = content.float()
    return ForeignFeatures(content.numpy(), None, "px", None, None, {"format": "pt"})


def _read_h5(path: Path) -> ForeignFeatures:
    import h5py

    try:
        with h5py.File(path) as file:
            kind, name = _detect_format(file, path)
            features = np.asarray(file[name])
            given = np.asarray(file["coords"]) if "coords" in file else None
            attributes = {
                "file": _plain_attributes(file.attrs),
                "features": _plain_attributes(file[name].attrs),
                "coords": _plain_attributes(file["coords"].attrs) if given is not None else {},
            }
    except OSError as error:
        raise StoreError(f"{path} is no HDF5 file, or damaged ({error})") from error
    record: Json = {"format": kind, "attributes": attributes}
    batched = [n for n, a in (("features", features), ("coords", given)) if _is_batch(a)]
    if batched:
        record["batched"] = batched
    features = features[0] if "features" in batched else features
    given = given[0] if given is not None and "coords" in batched else given
    if given is not None:
        record["coords_dtype"] = given.dtype.str
    said = {**attributes["file"], **attributes["coords"]}
    unit: Literal["px", "um"] = "um" if kind == "stamp" and said.get("unit", "um") == "um" else "px"
    names = ("tile_size_um", "tile_size") if unit == "um" else ("patch_size_level0",)
    patch_size = next((float(said[n]) for n in names if n in said), None)
    if unit == "um" and given is not None and patch_size and _on_grid(given, patch_size):
        record["step_um"] = patch_size
    magnification = said.get("level0_magnification")
    mpp = 10 / float(magnification) if magnification else None
    return ForeignFeatures(features, given, unit, patch_size, mpp, record)


def _detect_format(file: Any, path: Path) -> tuple[FeatureFormat, str]:
    if "feats" in file:
        return "stamp", "feats"
    if "features" in file:
        traces = set(file["coords"].attrs) if "coords" in file else set()
        return ("trident" if "patch_size_level0" in traces else "clam"), "features"
    raise StoreError(
        f"{path} holds {sorted(file)}; expected features (CLAM, TRIDENT) or feats (STAMP)"
    )


def _is_batch(array: NDArray[Any] | None) -> bool:
    return array is not None and array.ndim == 3 and len(array) == 1


def _on_grid(coords: NDArray[Any], step: float) -> bool:
    """Whether coordinates can be had again, bit for bit, as whole multiples of a step."""
    return np.array_equal((np.round(coords / step) * step).astype(coords.dtype), coords)


def _plain_attributes(attributes: Any) -> Json:
    """HDF5 attributes as JSON; arrays become lists."""
    return {name: _plain(value) for name, value in attributes.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _write_h5(
    path: Path,
    features: NDArray[Any],
    coords: NDArray[np.int32] | None,
    facts: Mapping[str, Any],
    kind: FeatureFormat,
) -> None:
    import h5py

    again = facts.get("imported", {})
    if again.get("format") != kind:
        again = {}
    placed = _placed(coords, facts, kind, again)
    attributes = again.get("attributes") or _own_attributes(facts, kind)
    batched = again.get("batched", [])
    with h5py.File(path, "w") as file:
        name = _FEATURES.get(kind, "features")
        stored = file.create_dataset(
            name, data=features[None] if "features" in batched else features
        )
        stored.attrs.update(attributes.get("features", {}))
        if placed is not None:
            there = file.create_dataset(
                "coords", data=placed[None] if "coords" in batched else placed
            )
            there.attrs.update(attributes.get("coords", {}))
        file.attrs.update(attributes.get("file", {}))


def _placed(
    coords: NDArray[np.int32] | None,
    facts: Mapping[str, Any],
    kind: FeatureFormat,
    again: Mapping[str, Any],
) -> NDArray[Any] | None:
    """Coordinates in the unit and type of the program."""
    if coords is None:
        return None
    if kind != "stamp":
        return coords.astype(again.get("coords_dtype", "<i8" if kind == "clam" else "<i4"))
    mpp = facts.get("slide_mpp")
    if mpp is None:
        raise StoreError(
            "STAMP has coordinates in micrometres: the store knows no mpp of the slide"
        )
    micrometres = coords.astype(np.float64) * float(mpp)  # (N, 2)
    step = again.get("step_um")
    if step:
        micrometres = np.round(micrometres / step) * step
    return micrometres.astype(again.get("coords_dtype", "<f4"))


def _own_attributes(facts: Mapping[str, Any], kind: FeatureFormat) -> Json:
    """What the program would have recorded of such patches."""
    side, mpp = facts.get("patch_size_level0"), facts.get("slide_mpp")
    if kind == "stamp":
        size = {} if side is None or mpp is None else {"tile_size_um": float(side) * float(mpp)}
        return {"file": {"extractor": str(facts.get("encoder", "")), "unit": "um", **size}}
    if kind != "trident" or side is None:
        return {}
    coords: Json = {"name": str(facts.get("slide_id", "")), "patch_size_level0": round(float(side))}
    if mpp is not None:
        coords["level0_magnification"] = round(10 / float(mpp))
    grid = facts.get("grid") or {}
    if grid:
        coords["patch_size"] = int(grid["patch_px"])
        coords["overlap"] = int(grid["overlap_px"])
        coords["target_magnification"] = round(10 / float(grid["mpp"]))
    return {"coords": coords}
