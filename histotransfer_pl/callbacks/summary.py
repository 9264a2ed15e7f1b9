"""The table that ends an extraction."""

from histotransfer_pl.callbacks.feature_writer import Timings

_MUCH_WAITING = 0.15
"""Share of the time that the encoder may wait for patches before they are the bottleneck."""
_BUSY = 0.8
"""Share of the time from which a thread is all that the others wait for."""


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
