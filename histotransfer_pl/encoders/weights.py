"""Checkpoints: found, read without executing anything, and loaded strictly."""

import argparse
import importlib.resources
import importlib.util
import logging
import os
import pathlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from histotransfer_pl.encoders.entry import EncoderEntry, WeightsSource
from histotransfer_pl.encoders.hub import hub_file
from histotransfer_pl.encoders.unwrap import (
    Mismatch,
    find_network,
    key_mismatch,
    one_network,
    state_dicts,
)
from histotransfer_pl.errors import WeightsError
from histotransfer_pl.records.files import UNREADABLE, damaged_part, sha256_of

WEIGHTS_FOLDER = "HISTOTRANSFER_WEIGHTS"
"""Environment variable that names the folder of downloaded weights."""

_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    np.dtype,
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # as NumPy 1 called it
    *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd"),
]
"""What a checkpoint may hold beside tensors: values whose making executes nothing."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightsFile:
    """A checkpoint on this machine and where it comes from."""

    path: Path
    origin: str

    def sha256(self) -> str:
        """Hash of the file's bytes."""
        return sha256_of(self.path)


def find_weights(source: WeightsSource, *, allow_download: bool = False) -> WeightsFile | None:
    """Look for weights in the weights folder, the installed package, the hub's cache, the hub.

    Raises:
        WeightsError: If the weights folder doesn't exist, or the hub was asked in vain.
    """
    folder = _weights_folder()
    if folder is not None:
        for name in source.files:
            if (folder / name).is_file():
                return WeightsFile(folder / name, f"folder:{name}")
    if source.package and source.package_file:
        packaged = _packaged(source.package, source.package_file)
        if packaged is not None:
            return WeightsFile(packaged, f"package:{source.package}")
    if source.hub_repo:
        hub = hub_file(source.hub_repo, source.hub_file, allow_download=allow_download)
        if hub is not None:
            return WeightsFile(hub, f"hub:{source.hub_repo}")
    return None


def require_weights(entry: EncoderEntry, weights: str, *, allow_download: bool) -> WeightsFile:
    """The checkpoint that a config means.

    Args:
        entry: The encoder.
        weights: `default` or a path.
        allow_download: Whether the hub may be asked.

    Raises:
        WeightsError: If there is none.
    """
    if weights != "default":
        path = Path(weights).expanduser()
        if not path.is_file():
            raise WeightsError(
                f"weights of {entry.name}: {weights!r} is neither a file nor `default` or `random`"
            )
        return WeightsFile(path, f"path:{path.name}")
    found = find_weights(entry.source, allow_download=allow_download)
    if found is None:
        raise WeightsError(_not_found(entry, allow_download=allow_download))
    return found


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a safetensors or torch file holds; code inside the file is never executed.

    Beside tensors and plain values a torch file may hold what training programs like to add and
    what cannot execute anything: an `argparse.Namespace`, numbers of NumPy, a path.

    Raises:
        WeightsError: If the file is damaged or holds other objects.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":  # safetensors: eight bytes of length, then a JSON header
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is a damaged safetensors file ({error})") from error
    damaged = damaged_part(path) if head.startswith(b"PK") else None
    if damaged is not None:
        raise WeightsError(f"{path} is damaged ({damaged}): copy it again from its source")
    try:
        # opened here: of a path torch would believe the ending
        with torch.serialization.safe_globals(_HARMLESS), path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        others = _other_objects(path)
        reason = (
            f"it holds other objects ({others})" if others else "it is damaged, or holds others"
        )
        raise WeightsError(
            f"{path} is no file of plain tensors: {reason}, which could execute code. Nothing was "
            "loaded; where you trust the file, save its state_dict as safetensors"
        ) from error
    if not isinstance(content, dict) or not state_dicts(content):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, not a dict of tensors (nor one inside it)"
        )
    return content


def load_checkpoint(
    network: nn.Module,
    content: Mapping[str, Any],
    entry: EncoderEntry,
    path: Path,
    optional: Collection[str] = (),
    wanted: str | None = None,
) -> None:
    """Load a checkpoint strictly, wherever in it the network lies, and say where that was.

    Raises:
        WeightsError: If no network in the file fits, or several do, or a value is not finite.
    """
    name = f"{entry.name}: {path}"
    found, best = find_network(
        content, lambda state: key_mismatch(network, entry.keys.apply(state), optional), wanted
    )
    if not found:
        looked = ", ".join(place or "the file itself" for place in state_dicts(content))
        missed = "" if wanted is None else f" at weights_key {wanted!r}"
        raise WeightsError(
            f"this is no checkpoint of {name}{missed}: {best}"
            f"{_advice(best, network.state_dict(keep_vars=True))} (dicts of tensors in it: "
            f"{looked})"
        )
    chosen = one_network(found, name)
    state = entry.keys.apply(chosen.state)
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if broken:
        raise WeightsError(
            f"{name} holds NaN or infinite values in {len(broken)} tensors ({broken[0]}): the "
            "training that wrote it diverged; give another checkpoint"
        )
    if chosen.place or chosen.left_out:
        beside = f"; {chosen.left_out} tensors beside it are left out" if chosen.left_out else ""
        _log.info("%s: took the network at %s%s", name, chosen.place or "the top", beside)
    network.load_state_dict(state, strict=False)  # `key_mismatch` has compared the keys


def _weights_folder() -> Path | None:
    named = os.environ.get(WEIGHTS_FOLDER)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise WeightsError(
            f"{WEIGHTS_FOLDER} names {named!r}, which isn't a folder; name the folder of the "
            "downloaded weights, or unset it"
        )
    return folder


def _packaged(package: str, file: str) -> Path | None:
    if importlib.util.find_spec(package) is None:
        return None
    path = Path(str(importlib.resources.files(package))) / file
    return path if path.is_file() else None


def _advice(found: Mismatch, expected: Mapping[str, Tensor]) -> str:
    """A hint where positions are those of another size, or every key lacks one prefix."""
    for shape in found.shapes:
        if shape.startswith("pos_embed"):
            return ". It was made for inputs of another size: set model_args: {img_size: <pixels>}"
    first = found.unexpected[0] if found.unexpected else ""
    for key in expected:
        prefix = key.removesuffix(first) if first and key.endswith(f".{first}") else ""
        if prefix and all(prefix + other in expected for other in found.unexpected):
            return f". Every key would fit with the prefix {prefix!r}: rename the keys"
    return ""


def _other_objects(path: Path) -> str:
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except UNREADABLE:
        return ""
    return ", ".join(sorted(map(str, names))[:4])


def _not_found(entry: EncoderEntry, *, allow_download: bool) -> str:
    folder = _weights_folder()
    searched = f"not in {folder}" if folder else f"{WEIGHTS_FOLDER} names no folder"
    ways = [
        "set weights to the path of a checkpoint",
        f"put {' or '.join(entry.source.files)} into the folder that {WEIGHTS_FOLDER} names",
    ]
    if entry.source.package:
        ways.append(f"install the package {entry.source.package.replace('_', '-')}")
    if entry.source.hub_repo and not allow_download:
        ways.append(f"fetch {entry.source.hub_repo} with allow_download: true")
    ways.append("or set weights: random for the untrained baseline")
    return f"no weights of {entry.name} ({searched}; see {entry.source.page}): {'; '.join(ways)}"
