"""Verbs that read and write files: plain functions whose signature is the command line."""

from pathlib import Path

from histotransfer_pl.cli.answer import print_line, record
from histotransfer_pl.cli.outcomes import print_outcomes
from histotransfer_pl.cli.parser import expand_shard, file_parser
from histotransfer_pl.data.slide_source import SlideSource
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.done import SLIDES_FAILED, Done
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.merge import merge_stores


def tile(arguments: list[str]) -> int:
    """Slides -> patch coordinates and QC thumbnails."""
    parser = file_parser("tile", tile.__doc__)
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


def paint(
    folder: Path = Path("demo"),
    patients: int | None = None,
    slides_per_patient: int = 2,
    seed: int = 0,
    size_px: int | None = None,
    n_foci: int | None = None,
    focus_scale: float = 1.0,
    outcomes: bool = False,
    scanner: float = 0.0,
) -> Path:
    """Paint H&E-like slides of two classes, several per patient.

    Args:
        folder: Where ``slides/`` and ``cohort.csv`` go.
        patients: Number of patients; 12, or 40 with ``outcomes``.
        slides_per_patient: Slides of each.
        seed: Seed of the paint.
        size_px: Side of a slide in pixels of half a micrometre; 2,688, or 1,024 with ``outcomes``.
        n_foci: Foci of tumour in a slide with tumour; two or three when null.
        focus_scale: Size of the foci; 1 gives radii of about a tenth of the slide's side.
        outcomes: One slide per patient, with survival, a score, labels and scanners that are drawn
            into the texture, and the same targets shuffled (``control_...``).
        scanner: With ``outcomes``: how unlike the pictures of two scanners are, 0 to 1.
    """
    if outcomes:
        from histotransfer_pl.slides.painted_outcomes import paint_outcomes

        return paint_outcomes(folder, patients or 40, size_px or 1024, scanner, seed)
    from histotransfer_pl.slides.synthetic import paint_cohort

    return paint_cohort(
        folder, patients or 12, slides_per_patient, seed, size_px or 2688, n_foci, focus_scale
    )


def verify(store: str, repair: bool = False) -> Done:
    """Read every array of a store and compare it with its checksum.

    Args:
        store: The store, a folder or a URL.
        repair: Remove what is broken, so that the same ``extract`` makes it again.
    """
    opened = FeatureStore.open(store)
    slides = len(opened.slide_ids())
    problems = opened.verify(repair=repair)
    lines = [*map(str, problems), f"{slides} slides read, {len(problems)} problems"]
    if repair and problems:
        lines.append("what was broken is removed: run the extraction again")
    return Done(
        lines,
        metrics={"slides": slides, "problems": len(problems)},
        failures={f"{p.slide_id}/{p.array}": p.what for p in problems},
        failure_code=1,
    )


def merge(stores: list[str], out: str, reference: bool = False) -> Done:
    """Put the slides of several stores into one; each is compared with its checksums first.

    Args:
        stores: Stores of one grid, folders or URLs.
        out: The store to write, a folder or a URL; made if missing.
        reference: Link the slides of local stores instead of copying them.
    """
    problems = merge_stores(map(FeatureStore.open, stores), out, reference=reference)
    slides = len(FeatureStore.open(out).slide_ids())
    failures = {problem.slide_id: str(problem) for problem in problems}
    last = f"{slides} slides in {out}; {len(failures)} damaged and left out"
    return Done([*map(str, problems), last], [out], {"slides": slides}, failures, failure_code=1)


def import_bags(
    store: Path,
    cohort: Path,
    features: Path | None = None,
    arrays: Path | None = None,
    slides: Path | None = None,
    encoder: str = "given",
    depth: str = "last",
) -> Done:
    """Import features of CLAM, TRIDENT or STAMP, or bags of plain arrays, into a store.

    Args:
        store: Store to write.
        cohort: With ``features``: your cohort table, which says the patients; with ``arrays``:
            the cohort table to write, in which every bag is its own patient.
        features: Folder of ``.h5`` files (CLAM, TRIDENT, STAMP) or ``.pt`` tensors, called after
            the slides.
        arrays: ``.npz`` file with ``X`` (instances, D), ``bag`` (instances,) and ``y`` (bags,),
            where ``y[i]`` belongs to the i-th smallest bag. Bags are whole numbers or text.
        slides: Folder of the slides, so that attention can be drawn on them.
        encoder: Name of the features in the store.
        depth: Name of their depth in the store.
    """
    if (features is None) == (arrays is None):
        raise ConfigError("give --features FOLDER, or --arrays FILE.npz")
    from histotransfer_pl.data.importing import import_arrays_of, import_features_of

    if features is not None:
        return import_features_of(features, store, cohort, slides, encoder, depth)
    return import_arrays_of(Path(str(arrays)), store, cohort, encoder, depth)
