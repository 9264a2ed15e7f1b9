"""What all programs have in common: sizes as options, lines or JSON as output."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any

from jsonargparse import ArgumentParser

from benchmarks.result import Result


def run(name: str, measure: Callable[..., list[Result]], quick: Mapping[str, Any]) -> None:
    """Measure with the arguments of the command line, and print the results.

    Args:
        name: The program's name.
        measure: What measures; its parameters are the options.
        quick: Small sizes, to see that it runs.
    """
    parser = ArgumentParser(prog=f"python -m benchmarks.{name}", description=measure.__doc__)
    parser.add_function_arguments(measure, as_group=False, as_positional=False)
    parser.add_argument("--quick", action="store_true", help="small and fast, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    if "--quick" in sys.argv:
        parser.set_defaults(dict(quick))
    arguments = parser.parse_args().as_dict()
    as_json = arguments.pop("json")
    del arguments["quick"]
    # Worker processes would import this program first, and torch with it, which takes seconds.
    program = sys.modules["__main__"]
    program.__spec__ = None
    vars(program).pop("__file__", None)
    os.environ.setdefault("WANDB_MODE", "disabled")
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")  # Lightning's advice on loaders and loggers
        results = measure(**arguments)
    if as_json:
        print(json.dumps([result.to_dict() for result in results]))
    else:
        print("\n".join(map(str, results)))
