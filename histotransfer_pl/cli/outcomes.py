"""The table that ends a tiling or an extraction."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from histotransfer_pl.data.tile import SlideOutcome

_SHOWN = 40


def print_outcomes(outcomes: "Mapping[str, SlideOutcome]", title: str) -> None:
    """One row per slide: patches, seconds, state and why; long cohorts show what is not plain."""
    shown = list(outcomes.values())
    if len(shown) > _SHOWN:
        shown = [o for o in shown if o.state not in ("done", "skipped")]
    # As plain text: rich would take the slide [b] for bold and :b: for a picture.
    table = Table(title=Text(title), title_justify="left")
    for name in ("slide", "patches", "seconds", "state", "reason"):
        table.add_column(name, justify="right" if name in ("patches", "seconds") else "left")
    for outcome in shown:
        table.add_row(
            Text(outcome.slide_id),
            str(outcome.n_patches),
            f"{outcome.seconds:.1f}",
            outcome.state,
            Text(outcome.reason),
        )
    console = Console()
    if shown:
        console.print(table)
    console.print(count_states(outcomes.values()))


def count_states(outcomes: "Iterable[SlideOutcome]") -> str:
    """How many slides ended in which state, and the patches they have."""
    outcomes = list(outcomes)
    states = Counter(outcome.state for outcome in outcomes)
    listed = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    patches = sum(o.n_patches for o in outcomes if o.state in ("done", "skipped"))
    return f"{len(outcomes)} slides: {listed}; {patches} patches"
