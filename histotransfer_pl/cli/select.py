"""The verb ``select``: from the attention of a stage-1 run to the patches of each slide."""

from pathlib import Path

from histotransfer_pl.cli.answer import print_line
from histotransfer_pl.cli.functions import run_function
from histotransfer_pl.data.selection import Rule
from histotransfer_pl.tasks.selecting import select_patches


def select(arguments: list[str]) -> int:
    """The patches of each slide to tune on."""
    return run_function(_select, arguments, "select")


def _select(
    run_dir: Path,
    top_k: int = 64,
    rule: Rule = "attention",
    name: str | None = None,
    store: Path | None = None,
    pool: int | None = None,
    seed: int = 0,
    patch_class: str | None = None,
    gallery: Path | None = None,
    slides: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Choose k patches of every slide, and save which, with how they were chosen, in the store.

    Args:
        run_dir: Folder of a stage-1 run, after ``fit`` and ``predict``.
        top_k: Patches of a slide (k); a slide with fewer gives all it has.
        rule: ``attention`` or ``patch_logit`` (highest first), or a control with the same k:
            ``random``, ``bottom`` (least attention) or ``uniform_grid`` (spread over the tissue).
        name: Name of the selection; by default ``<run>-<rule>-<k>``.
        store: The store; by default that of the run.
        pool: Patches per slide to keep in order of preference, at least k: those behind the k-th
            replace unreadable ones, and are candidates when the selection is refreshed. By
            default 4 times k.
        seed: Seed of ``random``.
        patch_class: Class whose patch logit counts; by default the second of two classes.
        gallery: Folder for a picture of the selected patches of each slide.
        slides: Folder of the slides, if they were moved since ``extract``; for the gallery.
        overwrite: Replace a selection of this name that was made otherwise.
    """
    for line in select_patches(
        run_dir,
        top_k,
        rule,
        name,
        store,
        pool=pool,
        seed=seed,
        patch_class=patch_class,
        gallery=gallery,
        slides=slides,
        overwrite=overwrite,
    ):
        print_line(line)
    return 0
