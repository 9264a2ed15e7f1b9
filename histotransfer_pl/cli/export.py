"""The verb `export`: attention for QuPath and for print, features for other programs."""

from pathlib import Path
from typing import Literal

from histotransfer_pl.cli.answer import print_line, record
from histotransfer_pl.cli.functions import SLIDES_FAILED
from histotransfer_pl.cli.parser import FileParser
from histotransfer_pl.store.foreign import FeatureFormat


def export(arguments: list[str]) -> int:
    """Attention -> QuPath GeoJSON and figures; features -> files of CLAM, TRIDENT or STAMP."""
    parser = FileParser(
        prog="python -m histotransfer_pl export",
        description=export.__doc__,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with the settings below.")
    parser.add_argument("--slide_ids", nargs="+", type=str, help="Slide ids; all by default.")
    parser.add_function_arguments(_export, as_positional=False, skip={"slide_ids"})
    config = parser.parse_args(arguments)
    values = parser.instantiate_classes(config).as_dict()
    values.pop("config", None)
    return _export(**values)


def _export(
    store: Path,
    out: Path = Path("export"),
    what: Literal["attention", "features"] = "attention",
    run_dir: str | None = None,
    encoder: str | None = None,
    depth: str | None = None,
    format: FeatureFormat = "h5",  # noqa: A002 - the word of the command line
    top_k: int = 64,
    slide_ids: list[str] | None = None,
) -> int:
    """Write files for other programs: attention of each slide, or its features.

    Args:
        store: Store that holds the features.
        out: Folder to write.
        what: ``attention``: ``<slide>.geojson`` for QuPath, ``<slide>.png`` and ``<slide>.svg`` for
            print; ``features``: one file per slide.
        run_dir: Run folder whose ``predict`` wrote the attention; may be left out if there is one.
        encoder: Encoder of the features.
        depth: Depth of the features.
        format: Whose files the features become: ``clam``, ``trident``, ``stamp``, ``pt`` (tensors),
            or ``h5``, which also has the provenance.
        top_k: At most so many patches of a slide are of the class ``Top attention`` in QuPath.
        slide_ids: Slide ids; all that have the array by default.

    Returns:
        0, or 3 when a slide could not be exported.
    """
    from histotransfer_pl.report.export import export_slides

    done = export_slides(
        store,
        out,
        what,
        run_dir=run_dir,
        encoder=encoder,
        depth=depth,
        kind=format,
        top_k=top_k,
        slide_ids=slide_ids,
    )
    print_line(f"wrote {what} of {done.slides} slides into {out}; {len(done.failures)} failed")
    record(files=tuple(done.files), metrics={"slides": done.slides}, failures=done.failures)
    return SLIDES_FAILED if done.failures else 0
