"""Where a slide's file lies, recorded so that it is found from any working folder."""

import os
from pathlib import Path

_FROM_STORE = "./"
"""How a location relative to the store begins; older stores hold paths as the user typed them."""


def record_path(path: str, store: str) -> str:
    """The location to record: relative to the store where both lie in one folder, else absolute.

    So a project folder with slides and store can be moved as a whole, and a store without its
    slides.
    """
    if "://" in path:
        return path
    absolute = os.path.abspath(path)  # noqa: PTH100 - links stay as they are
    root = os.path.abspath(store)  # noqa: PTH100
    if "://" not in store and Path(absolute).is_relative_to(Path(root).parent):
        return f"{_FROM_STORE}{os.path.relpath(absolute, root)}"
    return absolute


def find_path(recorded: str, store: str) -> str:
    """The file that a recorded location means; absolute, or a URL.

    Args:
        recorded: What ``record_path`` gave, or the path of an older store: from the working
            folder, or else from the folder that holds the store.
        store: Location of the store.
    """
    if "://" in recorded:
        return recorded
    if recorded.startswith(_FROM_STORE):
        return os.path.normpath(Path(store).absolute() / recorded)
    beside = Path(store).absolute().parent / recorded
    if not Path(recorded).exists() and beside.exists():
        return str(beside)
    return os.path.abspath(recorded)  # noqa: PTH100
