"""The verb ``verify``: a whole store read, and what is damaged named."""

from histotransfer_pl.cli.answer import print_line, record
from histotransfer_pl.cli.functions import run_function
from histotransfer_pl.store.feature_store import FeatureStore


def verify(arguments: list[str]) -> int:
    """Read a whole store and name what is damaged."""
    return run_function(_verify, arguments, "verify")


def _verify(store: str, repair: bool = False) -> int:
    """Read every array of a store and compare it with its checksum.

    Args:
        store: The store, a folder or a URL.
        repair: Remove what is broken, so that the same ``extract`` makes it again.
    """
    opened = FeatureStore.open(store)
    slides = len(opened.slide_ids())
    problems = opened.verify(repair=repair)
    for problem in problems:
        print_line(str(problem))
        record(failures={f"{problem.slide_id}/{problem.array}": problem.what})
    print_line(f"{slides} slides read, {len(problems)} problems")
    if repair and problems:
        print_line("what was broken is removed: run the extraction again")
    return 1 if problems else 0
