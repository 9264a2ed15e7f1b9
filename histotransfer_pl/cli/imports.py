"""The verb `import`: features that were made elsewhere -> a store."""

from pathlib import Path

from histotransfer_pl.cli.answer import print_line, record
from histotransfer_pl.cli.functions import SLIDES_FAILED, run_function
from histotransfer_pl.errors import ConfigError


def import_bags(arguments: list[str]) -> int:
    """Features of other programs, or plain arrays -> a store."""
    return run_function(_import_bags, arguments, "import")


def _import_bags(
    store: Path,
    cohort: Path,
    features: Path | None = None,
    arrays: Path | None = None,
    slides: Path | None = None,
    encoder: str = "given",
    depth: str = "last",
) -> int:
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
        done = import_features_of(features, store, cohort, slides, encoder, depth)
    else:
        done = import_arrays_of(Path(str(arrays)), store, cohort, encoder, depth)
    for line in done.lines:
        print_line(line)
    record(files=tuple(done.files), metrics=done.counts, failures=done.failures)
    return SLIDES_FAILED if done.failures else 0
