"""Whether a job can start: slides, labels, weights, space and time, before hours are spent."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from histotransfer_pl.data.cohort import (
    SlideEntry,
    read_cohort,
    require_columns,
    require_patients,
    resolve_mpp,
    slides_from_cohort,
    slides_from_folder,
)
from histotransfer_pl.data.splits import split_by_seed
from histotransfer_pl.data.stored_depths import StoredDepths
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.errors import CohortError, HistoTransferError, SlideError, shorten
from histotransfer_pl.outcomes.kinds import TargetColumns, target_columns
from histotransfer_pl.records.grid import GridSettings, SlideMpp
from histotransfer_pl.slides.grid import require_no_enlarging
from histotransfer_pl.slides.tiling import tile_slide
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.files import find_files, is_url, url_or_path
from histotransfer_pl.store.layout import METADATA

if TYPE_CHECKING:
    from torch import Tensor

    from histotransfer_pl.encoders.encoder import PatchEncoder

_BATCH = 16
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line of a check-up.

    Attributes:
        subject: What was looked at: slides, labels, encoder, cost, store.
        text: What was found, and for a problem what to do.
        problem: Whether it stands in the way.
    """

    subject: str
    text: str
    problem: bool = False


@dataclass(frozen=True)
class ExtractWork:
    """How much an extraction has to do, from a sample of slides."""

    slides: int
    patches: int
    read_seconds: float


def check_up(
    slides: Path | None,
    cohort: Path | None,
    target: str | TargetColumns,
    n_folds: int,
    store: str | None,
    networks: Sequence[EncoderConfig],
    grid: GridSettings,
    slide_mpp: SlideMpp,
    sample: int,
    keep: StoredDepths,
) -> list[Finding]:
    """Look at whatever is given; arguments as in the verb ``doctor``."""
    findings, work = check_inputs(slides, cohort, target, n_folds, grid, slide_mpp, sample)
    for network in networks:
        findings += check_encoder(network, grid, work, store or "", keep)
    if store is not None:
        findings += check_store(store)
    return findings


def check_inputs(
    slides: Path | None,
    cohort: Path | None,
    target: str | TargetColumns,
    n_folds: int,
    grid: GridSettings,
    slide_mpp: SlideMpp,
    sample: int,
) -> tuple[list[Finding], ExtractWork | None]:
    """Look at slides and labels; arguments as in the verb ``doctor``.

    Returns:
        What was found, and the work of all slides together; None where none can be read.
    """
    findings: list[Finding] = []
    work: ExtractWork | None = None
    readable: set[str] | None = None
    given_mpp = resolve_mpp(slide_mpp, grid.mpp)
    entries, problems = _entries(slides, cohort, grid)
    findings += problems
    if entries:
        found, good = check_slides(entries, grid, given_mpp)
        findings += found
        readable = {entry.slide_id for entry in good}
        if good:
            found, work = estimate_work(good, grid, sample, given_mpp)
            findings += found
    if cohort is not None:
        said = {finding.text for finding in problems}  # a table that can't be read fails twice
        labels = check_labels(cohort, target, n_folds, readable)
        findings += (finding for finding in labels if finding.text not in said)
    return findings, work


def check_slides(
    entries: Sequence[SlideEntry], grid: GridSettings, slide_mpp: float | None = None
) -> tuple[list[Finding], list[SlideEntry]]:
    """Open every slide and read the pixels of its middle.

    Args:
        entries: The slides.
        grid: The patches, for which a slide may be too coarse.
        slide_mpp: Micrometres per pixel for slides that know none.
    """
    findings: list[Finding] = []
    good: list[SlideEntry] = []
    mpps: list[float] = []
    for entry in entries:
        try:
            with closing(entry.open(slide_mpp)) as reader:
                width, height = reader.dimensions_level0
                reader.read_patch(width // 2, height // 2, 32, reader.mpp)
                require_no_enlarging(entry.path, reader.mpp, grid)
                mpps.append(reader.mpp)
        except SlideError as error:
            findings.append(Finding("slides", str(error), problem=True))
        else:
            good.append(entry)
    found = f"{len(good)} of {len(entries)} slides can be read"
    if mpps:
        found += f", mpp {min(mpps):.4g} to {max(mpps):.4g}, median {np.median(mpps):.4g}"
    return [Finding("slides", found), *findings], good


def check_labels(
    cohort: Path, target: str | TargetColumns, n_folds: int, slide_ids: set[str] | None
) -> Iterator[Finding]:
    """Whether the table can be joined with the slides and cut into patient folds.

    Args:
        cohort: The table.
        target: Column of the class, or columns of another target.
        n_folds: Folds that a fit will want.
        slide_ids: The slides at hand; None if only the table is looked at.
    """
    try:
        frame = read_cohort(cohort)
        asked = target_columns(target)
        require_columns(frame, ["patient_id", *asked.columns], cohort)
        require_patients(frame, cohort)
        frame = asked.read(frame)
    except HistoTransferError as error:
        yield Finding("labels", str(error), problem=True)
        return
    labelled = frame[frame["label"] != ""]
    if slide_ids is not None:
        lost = sorted(set(labelled["slide_id"]) - slide_ids)
        if lost:
            yield Finding(
                "labels",
                f"{len(lost)} labelled slides have no readable file: {shorten(lost)}; give their "
                "files, or leave their rows out",
                problem=True,
            )
        labelled = labelled[labelled["slide_id"].isin(slide_ids)]
    yield Finding("labels", f"{len(frame)} rows, {len(labelled)} usable{_classes(labelled)}")
    if labelled.empty:
        yield Finding("labels", "no slide has both a label and a readable file", problem=True)
        return
    for check in (
        lambda: asked.describe(labelled),
        lambda: split_by_seed(labelled, 0, n_folds, 0, asked.kind),
    ):
        try:
            check()
        except HistoTransferError as error:
            yield Finding("labels", str(error), problem=True)


def estimate_work(
    entries: Sequence[SlideEntry], grid: GridSettings, sample: int, slide_mpp: float | None = None
) -> tuple[list[Finding], ExtractWork | None]:
    """Tile some slides, spread over the list, and read a few patches of each.

    Args:
        entries: Slides that can be read.
        grid: The patches.
        sample: Number of slides to tile.
        slide_mpp: Micrometres per pixel for slides that know none.

    Returns:
        What was found, and the work of all slides together; None without any patch.
    """
    findings: list[Finding] = []
    counts: list[int] = []
    seconds: list[float] = []
    places = np.unique(np.linspace(0, len(entries) - 1, min(sample, len(entries))).astype(int))
    for entry in (entries[int(place)] for place in places):
        try:
            with closing(entry.open(slide_mpp)) as reader:
                coords = tile_slide(reader, grid).coords
                for x, y in coords[:: max(1, len(coords) // 8)]:
                    start = time.perf_counter()
                    reader.read_patch(int(x), int(y), grid.patch_px, grid.mpp)
                    seconds.append(time.perf_counter() - start)
            counts.append(len(coords))
        except SlideError as error:
            findings.append(Finding("patches", str(error), problem=True))
    if not seconds:
        text = f"no tissue in {len(counts)} slides tried; look at the pictures that tile draws"
        return [*findings, Finding("patches", text, problem=True)], None
    total = round(float(np.mean(counts)) * len(entries))
    text = (
        f"about {total} patches of {grid.patch_px} px at {grid.mpp:g} um in {len(entries)} slides "
        f"({min(counts)} to {max(counts)} per slide in {len(counts)} tried)"
    )
    work = ExtractWork(len(entries), total, float(np.median(seconds)))
    return [*findings, Finding("patches", text)], work


def check_encoder(
    config: EncoderConfig,
    grid: GridSettings,
    work: ExtractWork | None,
    store: str,
    keep: StoredDepths,
) -> Iterator[Finding]:
    """Whether the encoder can be built, and what extraction will cost in time and space.

    Args:
        config: The encoder.
        grid: The patches it will get.
        work: How many there are; None if unknown.
        store: Where the store will be.
        keep: What it will keep of each depth.
    """
    # Here and not above: slides, labels and store are looked at without torch.
    import torch

    from histotransfer_pl.encoders.encoder import build_encoder

    try:
        encoder = build_encoder(config)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        encoder.to(device)
        side = grid.patch_px
        patches = torch.zeros((_BATCH, side, side, 3), dtype=torch.uint8, device=device)
        with torch.inference_mode():
            seconds = [_seconds(encoder, patches) for _ in range(4)]
        rate = _BATCH / float(np.median(seconds[1:]))  # the first one warms up
        size = keep.size(work.slides, work.patches, encoder.dims) if work else 0
    except HistoTransferError as error:
        yield Finding("encoder", str(error), problem=True)
        return
    dims = ", ".join(f"{depth} {encoder.dims[depth]}" for depth in encoder.depths)
    yield Finding("encoder", f"{encoder.name} ({dims}): {rate:.0f} patches/s on {device.type}")
    if work is None:
        return
    hours = work.patches * max(1 / rate, work.read_seconds) / 3600
    if is_url(store):
        yield Finding("cost", f"about {size / GIB:.3g} GiB of features; {span(hours)}")
        return
    free = shutil.disk_usage(existing_folder(Path(url_or_path(store)))).free
    text = f"about {size / GIB:.3g} GiB of features, {free / GIB:.3g} GiB free; {span(hours)}"
    short = size > free
    yield Finding("cost", text + ("; free the difference first" if short else ""), problem=short)


def check_store(location: str) -> Iterator[Finding]:
    """Whether the store, if there is one yet, can be opened and everything in it is whole."""
    try:
        if not _is_begun(location):
            return
        store = FeatureStore.open(location)
        problems = store.verify()
    except HistoTransferError as error:
        yield Finding("store", str(error), problem=True)
        return
    slides = len(store.slide_ids())
    yield Finding("store", f"{slides} slides in {store.location}, {len(problems)} problems")
    for problem in problems:
        yield Finding("store", str(problem), problem=True)


def _is_begun(location: str) -> bool:
    """Whether there is something to open; a bucket that may not be listed is refused here."""
    if not is_url(location):
        return Path(url_or_path(location)).exists()
    files = find_files(location)
    files.folders("")
    return files.exists(METADATA)


def _seconds(encoder: "PatchEncoder", patches: "Tensor") -> float:
    start = time.perf_counter()
    next(iter(encoder(patches).values())).cpu()  # waits for the device
    return time.perf_counter() - start


def _classes(labelled: pd.DataFrame) -> str:
    return "".join(
        f"; {label}: {len(rows)} slides of {rows['patient_id'].nunique()} patients"
        for label, rows in labelled.groupby("label")
    )


def existing_folder(path: Path) -> Path:
    """The folder itself or the nearest one above it that exists."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def span(hours: float) -> str:
    """A time in words."""
    return f"about {hours:.1f} h" if hours >= 1 else f"about {60 * hours:.1f} min"


def _entries(
    slides: Path | None, cohort: Path | None, grid: GridSettings
) -> tuple[list[SlideEntry], list[Finding]]:
    """The slides of the folder or the table; a table alone may name no files."""
    try:
        if cohort is not None and (slides is not None or "path" in read_cohort(cohort)):
            return slides_from_cohort(cohort, slides, grid.mpp), []
        return (slides_from_folder(slides) if slides is not None else []), []
    except CohortError as error:
        return [], [Finding("slides", str(error), problem=True)]
