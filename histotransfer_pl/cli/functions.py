"""Verbs that are functions: the signature is the command line, the docstring its help."""

from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from itertools import pairwise
from pathlib import Path

from histotransfer_pl.cli.answer import print_line, record
from histotransfer_pl.cli.parser import file_parser
from histotransfer_pl.records.done import Done

_SEVERAL: dict[str, type] = {
    "slide_ids": str, "stores": str, "runs": Path, "model": Path, "arm": str
}  # fmt: skip
"""Settings of which several values may be given one behind the other, or in brackets."""


def run_function(
    function: Callable[..., Done | Path | int], arguments: list[str], verb: str
) -> int:
    """Call a function with arguments from the command line or a YAML file; say what it did.

    Args:
        function: Returns what it did, the file it wrote, or an exit code.
        arguments: Words of the command line.
        verb: Name of the verb.
    """
    parser = file_parser(verb, function.__doc__)
    parameters = signature(function).parameters
    several = [name for name in _SEVERAL if name in parameters]
    for name in several:
        needed = parameters[name].default is Parameter.empty
        parser.add_argument(
            f"--{name}", nargs="+", type=_SEVERAL[name], help="One or several.", required=needed
        )
    parser.add_function_arguments(function, as_positional=False, skip={*several})
    config = parser.parse_args(without_brackets(arguments, several))
    values = parser.instantiate_classes(config).as_dict()
    values.pop("config", None)
    result = function(**values)
    if isinstance(result, int):
        return result
    return print_done(Done([f"wrote {result}"], [result]) if isinstance(result, Path) else result)


def without_brackets(arguments: Sequence[str], several: Sequence[str]) -> list[str]:
    """Lists of a YAML file as words, for options that take several.

    Example:
        >>> without_brackets(["--runs", "[a, b]", "--out", "[c]"], ["runs"])
        ['--runs', 'a', 'b', '--out', '[c]']
    """
    found: list[str] = []
    for before, word in pairwise(["", *arguments]):
        listed = word.startswith("[") and word.endswith("]")
        if listed and before.removeprefix("--") in several:
            found += [part.strip() for part in word[1:-1].split(",")]
        else:
            found.append(word)
    return found


def print_done(done: Done) -> int:
    """Print what was done and note it for ``--json``; the exit code."""
    for line in done.lines:
        print_line(line)
    record(files=tuple(done.files), metrics=done.metrics, failures=done.failures)
    return done.exit_code
