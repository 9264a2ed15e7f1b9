"""Checkpoints: found, read without executing anything, and loaded strictly."""

import hashlib
import importlib.resources
import importlib.util
import os
import pickle
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from histotransfer_pl.encoders.entry import EncoderEntry, WeightsSource
from histotransfer_pl.encoders.hub import hub_file
from histotransfer_pl.errors import WeightsError

WEIGHTS_FOLDER = "HISTOTRANSFER_WEIGHTS"
"""Environment variable that names the folder of downloaded weights."""

_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    KeyError,
    ValueError,
    AttributeError,
)
"""What torch.load raises, by the place at which a file is damaged."""


@dataclass(frozen=True)
class WeightsFile:
    """A checkpoint on this machine and where it comes from."""

    path: Path
    origin: str

    def sha256(self) -> str:
        """Hash of the file's bytes."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


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
        raise WeightsError(_nowhere(entry, allow_download=allow_download))
    return found


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors or torch file; code inside the file is never executed.

    Raises:
        WeightsError: If the file is damaged or holds something other than tensors.
    """
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] == b"{":  # safetensors: eight bytes of length, then a JSON header
        try:
            return safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is a damaged safetensors file ({error})") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"{path} is no file of plain tensors: it is damaged, or holds other objects, which "
            "could execute code. Nothing was loaded; where you trust the file, save its "
            f"state_dict as safetensors ({reason[0]})"
        ) from error
    return _tensors(content, path)


def load_weights(
    network: nn.Module, state: Mapping[str, Tensor], name: str, optional: Collection[str] = ()
) -> None:
    """Load a state dict strictly.

    Args:
        network: The whole network.
        state: Its weights under timm's keys.
        name: What to call the encoder in messages.
        optional: Keys behind the cut; a checkpoint saved from a truncated encoder lacks them, all
            of them.

    Raises:
        WeightsError: If a key is missing or left over, or a shape differs.
    """
    expected = network.state_dict()
    needed = [key for key in expected if not key.endswith("num_batches_tracked")]
    if not any(key in state for key in optional):
        needed = [key for key in needed if key not in optional]
    missing = [key for key in needed if key not in state]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in needed
        if key in state and state[key].shape != expected[key].shape
    ]
    if missing or unexpected or shapes:
        raise WeightsError(
            f"this is no checkpoint of {name}: {_some('missing', missing)}, "
            f"{_some('unexpected', unexpected)}, {_some('of another shape', shapes)}"
            f"{_shifted(unexpected, expected)}"
        )
    network.load_state_dict(dict(state), strict=False)


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


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values()):
        return {str(key): value for key, value in content.items()}
    raise WeightsError(
        f"{path} holds a {type(content).__name__}, not a dict of tensors (or one under "
        "`state_dict`)"
    )


def _some(what: str, names: Sequence[str], limit: int = 8) -> str:
    if not names:
        return f"0 {what}"
    more = ", ..." if len(names) > limit else ""
    return f"{len(names)} {what} ({', '.join(names[:limit])}{more})"


def _shifted(unexpected: Sequence[str], expected: Collection[str]) -> str:
    """A hint if every unexpected key would be right with one prefix less, or one prefix more."""
    first = unexpected[0] if unexpected else ""
    for key in expected:
        if first.endswith(f".{key}"):
            what, prefix = "without", first.removesuffix(key)
            fits = all(
                other.startswith(prefix) and other.removeprefix(prefix) in expected
                for other in unexpected
            )
        elif first and key.endswith(f".{first}"):
            what, prefix = "with", key.removesuffix(first)
            fits = all(prefix + other in expected for other in unexpected)
        else:
            continue
        if fits:
            return f". Every key would fit {what} the prefix {prefix!r}: rename the keys"
    return ""


def _nowhere(entry: EncoderEntry, *, allow_download: bool) -> str:
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
