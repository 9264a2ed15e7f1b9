"""Names inside a store: from slide, encoder, depth and run to keys that every file system takes.

A key is the percent-encoded name. Slide ids come from file names and spreadsheets, so they hold
slashes, spaces and letters of any script; a key holds ASCII letters, digits and ``_.-~%`` only,
never starts with a dot or a double underscore (hidden files; reserved by Zarr 3), and is never a
name that Zarr or Windows keeps for itself.
"""

import difflib
import functools
from collections.abc import Iterable
from urllib.parse import quote, unquote

from histotransfer_pl.errors import StoreError

FORMAT = "histotransfer_pl"
FORMAT_VERSION = 2
"""Stores of version 1 have metadata without seals; they are read and extended as they are."""
READABLE_VERSIONS = (1, FORMAT_VERSION)
METADATA = "zarr.json"
COORDS = "coords"
CONTENTS = "contents"
"""The attribute of a slide that lists which arrays belong to it."""
PARTIAL = ".partial"
LOCK = ".lock"
HOLDER = ".holder"
SETTINGS = ".settings"
"""The group that says with which settings each array of the store is made."""

SECTION_LEVELS = {"features": 2, "means": 2, "attention": 1, "selections": 1}
"""How many keys follow the name of each section of a slide."""

MAX_KEY_BYTES = 255
"""The longest file name of ext4, xfs, APFS and NTFS."""

_WINDOWS_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))]
)


@functools.lru_cache(maxsize=1 << 16)  # every look at a slide asks for its key
def encode_key(name: str) -> str:
    """The key of a name; ``decode_key`` gives the name back.

    Raises:
        StoreError: The name is empty, or its key is longer than file systems allow.
    """
    if not name:
        raise StoreError("an empty name cannot be stored: give every slide, encoder and run a name")
    # surrogatepass: file names that are not valid UTF-8 reach Python with lone surrogates
    key = quote(name, safe="", errors="surrogatepass")
    if key.startswith(".") or key.startswith("__") or _is_reserved(key):
        key = f"%{ord(key[0]):02X}{key[1:]}"
    if key.endswith("."):  # Windows drops a trailing dot
        key = key[:-1] + "%2E"
    if len(key) > MAX_KEY_BYTES:
        raise StoreError(
            f"the name {name[:40]!r}... becomes a file name of {len(key)} bytes, file systems "
            f"take {MAX_KEY_BYTES}: shorten it (a letter outside ASCII takes 6 or more)"
        )
    return key


def decode_key(key: str) -> str:
    """The name that ``encode_key`` turned into this key."""
    return unquote(key, errors="surrogatepass")


def _is_reserved(key: str) -> bool:
    lowered = key.lower()
    return lowered == METADATA or lowered.partition(".")[0] in _WINDOWS_DEVICES


def feature_path(encoder: str, depth: str) -> str:
    """Where the features of an encoder at a depth lie inside a slide."""
    return f"features/{encode_key(encoder)}/{encode_key(depth)}"


def mean_path(encoder: str, depth: str) -> str:
    """Where the mean over a slide's patches of these features lies, one row of float32."""
    return f"means/{encode_key(encoder)}/{encode_key(depth)}"


def rows_of(array: str, n_patches: int) -> int | None:
    """Rows that an array of a slide must have; None for selections, which have their own."""
    section = array.partition("/")[0]
    return {"means": 1, "selections": None}.get(section, n_patches)


def attention_path(run: str) -> str:
    """Where the attention given by a run lies inside a slide."""
    return f"attention/{encode_key(run)}"


def selection_path(name: str) -> str:
    """Where the rows of a selection (top-k) lie inside a slide."""
    return f"selections/{encode_key(name)}"


@functools.lru_cache(maxsize=4096)  # the same few paths come with every slide
def check_array_path(path: str) -> str:
    """Return the path if it is one that this layout has.

    Raises:
        StoreError: It is not ``coords`` and was not made by one of the path functions.
    """
    section, *keys = path.split("/")
    known = path == COORDS or len(keys) == SECTION_LEVELS.get(section)
    if not known or any(not key or encode_key(decode_key(key)) != key for key in keys):
        raise StoreError(
            f"{path!r} is not the path of an array of a slide: make it with feature_path, "
            "attention_path or selection_path"
        )
    return path


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause for an error message that names what is there and looks alike."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    if not close:
        return "it is empty"
    return f"it holds {len(names)}, nearest: {', '.join(map(repr, close))}"
