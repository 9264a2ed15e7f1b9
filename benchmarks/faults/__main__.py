"""All areas of faults, drawn by seed: `python -m benchmarks.faults --seed 0`."""

import argparse
import importlib
import pkgutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import benchmarks.faults
from benchmarks.faults.tally import Tally

COLUMNS = ("tried", "survived", "lost", "unexplained")
PAGE = Path(__file__).parents[2] / "docs/results/faults.md"


@dataclass(frozen=True)
class Area:
    """A module of this package that damages something.

    Attributes:
        name: What is damaged.
        cases: How many cases make the whole.
        campaign: From a seed and a number of cases to what became of them.
    """

    name: str
    cases: int
    campaign: Callable[[int, int], Tally]


def areas() -> Iterator[Area]:
    """Every module of this package that has a ``campaign``."""
    for module in pkgutil.iter_modules(benchmarks.faults.__path__):
        if module.name != "__main__":
            loaded = importlib.import_module(f"benchmarks.faults.{module.name}")
            if hasattr(loaded, "campaign"):
                yield Area(module.name, loaded.CASES, loaded.campaign)


def table(tallies: list[Tally]) -> str:
    """The counts as a Markdown table."""
    total = [sum(getattr(t, name) for t in tallies) for name in COLUMNS]
    lines = [
        f"| Area | {' | '.join(COLUMNS)} |",
        "|---|---|---|---|---|",
        *(f"| {t.area} | {t.tried} | {t.survived} | {t.lost} | {t.unexplained} |" for t in tallies),
        f"| all | {' | '.join(map(str, total))} |",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the areas one after the other and print the table; 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--areas", nargs="*", help="names of areas; all by default")
    parser.add_argument("--share", type=float, default=1.0, help="of the cases of each area")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.name} with the table")
    given = parser.parse_args(arguments)
    start = time.monotonic()
    tallies = []
    for area in areas():
        if given.areas is None or area.name in given.areas:
            tallies.append(area.campaign(given.seed, max(1, round(area.cases * given.share))))
            print(f"{tallies[-1]} after {time.monotonic() - start:.0f} s", flush=True)
    print(table(tallies))
    if given.page:
        PAGE.write_text(page(tallies, given.seed, given.share))
    return int(any(tally.lost or tally.unexplained for tally in tallies))


def page(tallies: list[Tally], seed: int, share: float) -> str:
    """The page of the documentation."""
    command = f"python -m benchmarks.faults --seed {seed} --share {share:g} --page"
    return f"""\
# Faults: what is lost, what is silent

Written by `{command}`; without `--share` it tries about 2,000 cases.

{table(tallies)}

A case survived if it had no effect or ended in one line that explains it, with the exit code that
the [command line](../reference/cli.md) documents. It is *lost* if good data went or wrong data came
back without an error, *unexplained* if it ended in a traceback, a signal, a hang or a memory bomb.

- **checkpoints**: flipped bits, cut and padded files, pickles that would execute, the wrappings of
  other programs, of run checkpoints, tuned encoders and model files.
- **settings**: cohort tables and YAML files with cells, columns, keys and values replaced, put
  through the command line.
- **slides**: bytes, tags and tiles of five kinds of TIFF, read beside OpenSlide, pixel by pixel.
- **store**: writers that are killed, and damage to files, folders, metadata and their order, found
  by `verify`, refused by readers and made again after `verify --repair`.
"""


if __name__ == "__main__":
    raise SystemExit(main())
