"""Verbs that are functions: the signature is the command line, the docstring its help."""

from collections.abc import Callable

from histotransfer_pl.cli.parser import FileParser

SLIDES_FAILED = 3
"""Exit code of a verb that ended, but lost slides; it says which and why."""


def run_function(function: Callable[..., int], arguments: list[str], verb: str) -> int:
    """Call a function with arguments from the command line or a YAML file."""
    parser = FileParser(
        prog=f"python -m histotransfer_pl {verb}",
        description=(function.__doc__ or "").split("\n\n", 1)[0],
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with the settings below.")
    parser.add_function_arguments(function, as_positional=False)
    config = parser.parse_args(arguments)
    values = parser.instantiate_classes(config).as_dict()
    values.pop("config", None)
    return function(**values)
