"""The verb ``merge``: stores that were written apart -> one store."""

from histotransfer_pl.cli.answer import print_line
from histotransfer_pl.cli.parser import FileParser
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.merge import merge_stores


def merge(arguments: list[str]) -> int:
    """Stores that were written apart -> one store."""
    parser = FileParser(
        prog="python -m histotransfer_pl merge", description=merge.__doc__, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file with the settings below.")
    parser.add_argument("--stores", nargs="+", type=str, required=True, help="Folders or URLs.")
    parser.add_function_arguments(merge_into, as_positional=False, skip={"stores"})
    values = parser.parse_args(arguments).as_dict()
    values.pop("config", None)
    return merge_into(**values)


def merge_into(stores: list[str], out: str, reference: bool = False) -> int:
    """Put the slides of several stores into one; each is compared with its checksums first.

    Args:
        stores: Stores of one grid.
        out: The store to write, a folder or a URL; made if missing.
        reference: Link the slides of local stores instead of copying them.

    Returns:
        0, or 1 when a slide was damaged and left out.
    """
    problems = merge_stores(map(FeatureStore.open, stores), out, reference=reference)
    for problem in problems:
        print_line(str(problem))
    slides = len(FeatureStore.open(out).slide_ids())
    left_out = len({problem.slide_id for problem in problems})
    print_line(f"{slides} slides in {out}; {left_out} damaged and left out")
    return 1 if problems else 0
