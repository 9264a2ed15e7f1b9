"""All areas of faults, drawn by seed: `python -m benchmarks.faults --seed 0 --minutes 10`."""

import argparse
import importlib
import pkgutil
from collections.abc import Callable, Iterator

import benchmarks.faults
from benchmarks.faults.tally import Tally

Campaign = Callable[[int, float], Tally]
_NO_AREA = ("__main__", "tally")


def areas() -> Iterator[tuple[str, Campaign]]:
    """Every module of this package that has a ``campaign(seed, seconds)``."""
    for module in pkgutil.iter_modules(benchmarks.faults.__path__):
        if module.name not in _NO_AREA:
            loaded = importlib.import_module(f"benchmarks.faults.{module.name}")
            if hasattr(loaded, "campaign"):
                yield module.name, loaded.campaign


def table(tallies: list[Tally], seed: int) -> str:
    """The counts as a Markdown table."""
    lines = [
        f"Seed {seed}:",
        "",
        "| Area | tried | survived | lost | unexplained |",
        "|---|---|---|---|---|",
        *(f"| {t.area} | {t.tried} | {t.survived} | {t.lost} | {t.unexplained} |" for t in tallies),
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the areas one after the other and print the table; 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all areas together")
    parser.add_argument("--areas", nargs="*", help="names of areas; all by default")
    given = parser.parse_args(arguments)
    chosen = [(name, run) for name, run in areas() if given.areas is None or name in given.areas]
    seconds = given.minutes * 60 / max(1, len(chosen))
    tallies = [run(given.seed, seconds) for _, run in chosen]
    print(table(tallies, given.seed))
    return int(any(tally.lost or tally.unexplained for tally in tallies))


if __name__ == "__main__":
    raise SystemExit(main())
