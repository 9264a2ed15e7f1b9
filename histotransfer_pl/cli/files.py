"""Verbs that read and write files: plain functions whose signature is the command line."""

from pathlib import Path

from histotransfer_pl.cli.answer import print_line, record
from histotransfer_pl.cli.functions import SLIDES_FAILED, run_function
from histotransfer_pl.cli.outcomes import print_outcomes
from histotransfer_pl.cli.parser import FileParser, expand_shard
from histotransfer_pl.data.slide_source import SlideSource


def tile(arguments: list[str]) -> int:
    """Slides -> patch coordinates and QC thumbnails."""
    parser = FileParser(
        prog="python -m histotransfer_pl tile", description=tile.__doc__, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file with the settings below.")
    parser.add_class_arguments(SlideSource, "data")
    config = parser.parse_args(expand_shard(arguments))
    source: SlideSource = parser.instantiate_classes(config).data
    with source.writing() as store:
        outcomes = source.tile(store)
    print_outcomes(outcomes, f"tile into {source.store_path}")
    if source.qc_folder is not None:
        print_line(f"thumbnails in {source.qc_folder}")
    failures = {name: o.reason for name, o in outcomes.items() if o.state == "failed"}
    record(files=(source.store_path,), failures=failures)
    return SLIDES_FAILED if failures else 0


def paint(arguments: list[str]) -> int:
    """Painted slides for a trial."""
    return run_function(_paint, arguments, "paint")


def _paint(
    folder: Path = Path("demo"),
    patients: int = 12,
    slides_per_patient: int = 2,
    seed: int = 0,
    size_px: int = 2688,
    n_foci: int | None = None,
    focus_scale: float = 1.0,
) -> int:
    """Paint H&E-like slides of two classes, several a patient.

    Args:
        folder: Where ``slides/`` and ``cohort.csv`` go.
        patients: Number of patients.
        slides_per_patient: Slides of each.
        seed: Seed of the paint.
        size_px: Side of a slide in pixels of half a micrometre.
        n_foci: Foci of tumour in a slide with tumour; two or three when null.
        focus_scale: Size of the foci; 1 gives radii of about a tenth of the slide's side.
    """
    from histotransfer_pl.slides.synthetic import paint_cohort

    table = paint_cohort(folder, patients, slides_per_patient, seed, size_px, n_foci, focus_scale)
    print_line(f"painted slides and labels in {table}")
    return 0


def mosaic(arguments: list[str]) -> int:
    """Labelled tiles -> small slides of tiles of one class."""
    return run_function(_mosaic, arguments, "mosaic")


def _mosaic(
    tiles: Path,
    folder: Path,
    label: str = "label",
    group: str = "group",
    classes: list[str] | None = None,
    where: dict[str, list[str]] | None = None,
    groups_per_slide: int = 2,
    tiles_per_row: int = 2,
    mpp: float = 1.0,
    seed: int = 0,
) -> int:
    """Lay labelled tiles out as small slides, each of one class and of several sources.

    Args:
        tiles: CSV table with ``path`` and the two columns below.
        folder: Where ``slides/`` and ``cohort.csv`` go.
        label: Column of the class.
        group: Column of what must stay together: the patient or the larger tile it was cut from.
        classes: Classes to take; all when null.
        where: Take only tiles with one of these values in these columns, such as
            ``{split: [val, test]}``.
        groups_per_slide: Groups whose tiles make one slide.
        tiles_per_row: Tiles side by side.
        mpp: Micrometres per pixel to write into the slides.
        seed: Seed of the draw.
    """
    from histotransfer_pl.data.mosaic import lay_out_tiles

    table = lay_out_tiles(
        tiles, folder, label, group, classes, where, groups_per_slide, tiles_per_row, mpp, seed
    )
    print_line(f"slides of tiles and their labels in {table}")
    return 0
