"""The table that ends an extraction."""

from collections import Counter
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from histotransfer_pl.callbacks.feature_writer import Timings
from histotransfer_pl.data.tile import SlideOutcome

_SHOWN = 40
_MUCH_WAITING = 0.15
"""Share of the time that the encoder may wait for patches before they are the bottleneck."""
_BUSY = 0.8
"""Share of the time from which a thread is all that the others wait for."""


def print_outcomes(outcomes: Mapping[str, SlideOutcome], title: str) -> None:
    """One row a slide: patches, seconds, state and why; long cohorts show what is not plain."""
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


def count_states(outcomes: Iterable[SlideOutcome]) -> str:
    """How many slides ended in which state, and the patches they have."""
    outcomes = list(outcomes)
    states = Counter(outcome.state for outcome in outcomes)
    listed = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    patches = sum(o.n_patches for o in outcomes if o.state in ("done", "skipped"))
    return f"{len(outcomes)} slides: {listed}; {patches} patches"


def describe_timings(timings: Timings) -> str:
    """Where the time of this process went, what held it up, and what to set."""
    if not timings.patches:
        return "nothing was left to encode"
    total = timings.waiting + timings.encoding
    place = timings.reading - timings.file - timings.decoding
    decodes = f", {timings.decodes / timings.tiles:.2f} decodes per tile" if timings.tiles else ""
    copying = f", copying {timings.copying:.1f} s" if timings.copying else ""
    return (
        f"{timings.patches} patches in {total:.1f} s ({timings.patches / total:.1f} patches/s): "
        f"encoding {timings.encoding:.1f} s, waiting for patches {timings.waiting:.1f} s; beside "
        f"it reading {timings.reading:.1f} s of {_readers(timings)} (files {timings.file:.1f}, "
        f"decoding {timings.decoding:.1f}, placing and OpenSlide {place:.1f}{decodes}){copying}, "
        f"writing {timings.writing:.1f} s\n{describe_bottleneck(timings)}"
    )


def describe_bottleneck(timings: Timings) -> str:
    """What the rest waited for, and the setting that helps."""
    total = timings.waiting + timings.encoding
    if timings.waiting > _MUCH_WAITING * total:
        if timings.copying > _BUSY * total:
            return "bottleneck: copying to the device; leave more cores to this process"
        if timings.file > 0.5 * timings.reading:
            return "bottleneck: reading, most of it the files: copy the slides to a faster disk"
        setting = (
            "data.num_workers"
            if timings.reading_in and timings.reading_in.workers
            else ("data.threads, or read in processes with data.num_workers")
        )
        return f"bottleneck: reading; if cores are idle, raise {setting}"
    if timings.writing > _BUSY * total:
        return "bottleneck: writing; put the store on a faster disk, or store fewer depths"
    return (
        "bottleneck: encoding; a shallower depth, trainer.precision (bf16-mixed, on a GPU "
        "16-mixed) or model.compiled make it faster"
    )


def _readers(timings: Timings) -> str:
    reading = timings.reading_in
    if reading is None:
        return "the readers"
    if reading.workers:
        return f"{reading.workers} processes"
    return f"{reading.threads} threads"
