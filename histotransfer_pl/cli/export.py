"""The verb `export`: attention for QuPath, features for programs that read HDF5."""

import json
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np

from histotransfer_pl.cli.answer import print_line
from histotransfer_pl.cli.parser import FileParser
from histotransfer_pl.errors import ConfigError, HistoTransferError, StoreError
from histotransfer_pl.records.files import write_text
from histotransfer_pl.report.attention_figure import SlideWords, attention_figure
from histotransfer_pl.report.attention_scale import relative_attention
from histotransfer_pl.report.geojson import attention_geojson
from histotransfer_pl.report.overlay import (
    draw_overlay,
    patch_boxes,
    thumbnail_mpp,
)
from histotransfer_pl.runs.attention import read_attention
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import attention_path, decode_key, encode_key, feature_path
from histotransfer_pl.store.slide import StoredSlide

SLIDES_FAILED = 3
_LONG_SIDE_PX = 1200
_log = logging.getLogger(__name__)


def export(arguments: list[str]) -> int:
    """Attention -> QuPath GeoJSON and overlay PNG; features -> HDF5."""
    parser = FileParser(
        prog="python -m histotransfer_pl export",
        description=export.__doc__,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with the settings below.")
    parser.add_argument("--slide_ids", nargs="+", type=str, help="Slide ids; all by default.")
    parser.add_function_arguments(export_slides, as_positional=False, skip={"slide_ids"})
    config = parser.parse_args(arguments)
    values = parser.instantiate_classes(config).as_dict()
    values.pop("config", None)
    return export_slides(**values)


def export_slides(
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
    """Write files for other programs, two for the attention of a slide or one for its features.

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
    opened = FeatureStore.open(store)
    if what == "features":
        if encoder is None or depth is None:
            raise ConfigError("export of features needs --encoder and --depth")
        array = feature_path(encoder, depth)
        _require_h5py()
    else:
        array = attention_path(run or _only_run(opened))
    chosen = slides or [s for s in opened.slide_ids() if opened.slide(s).has(array)]
    if not chosen:
        raise StoreError(f"no slide of {opened.location} has {array}: {_what_to_do(what)}")
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for slide_id in chosen:
        try:
            slide = opened.slide(slide_id)
            if what == "features":
                write_features(slide, array, out)
            else:
                write_attention(slide, decode_key(array.partition("/")[2]), out, top_k)
        except HistoTransferError as error:
            failed += 1
            _log.warning(f"{slide_id}: {error}")
    print_line(f"wrote {what} of {len(chosen) - failed} slides into {out}; {failed} failed")
    return SLIDES_FAILED if failed else 0


def write_attention(slide: StoredSlide, run: str, out: Path, top_k: int) -> None:
    """Write ``<slide>.geojson`` and ``<slide>.png``."""
    relative = relative_attention(read_attention(slide, run))  # (N,)
    coords, attributes = slide.coords(), slide.attributes
    side, mpp = float(attributes["patch_size_level0"]), float(attributes["slide_mpp"])
    name = encode_key(slide.slide_id)
    with open_slide(str(attributes["path"]), mpp) as reader:
        content = attention_geojson(coords, side, relative, top_k, reader.qupath_origin)
        write_text(out / f"{name}.geojson", json.dumps(content))
        thumbnail_at = thumbnail_mpp(reader.dimensions_level0, mpp, _LONG_SIDE_PX)
        thumbnail = reader.thumbnail(thumbnail_at)  # (h, w, 3)
    boxes = patch_boxes(coords, side, mpp, thumbnail_at)  # (N, 4)
    overlay = draw_overlay(thumbnail, boxes, relative, top_k)  # (h, w, 3)
    words = SlideWords(slide.slide_id, Path(run).name)
    attention_figure(thumbnail, overlay, thumbnail_at, words, name).write(out)


def write_features(slide: StoredSlide, array: str, out: Path) -> None:
    """Write ``<slide>.h5``: ``features`` (N, D), ``coords`` (N, 2), provenance as attributes."""
    import h5py

    info = slide.info(array)
    path = out / f"{encode_key(slide.slide_id)}.h5"
    aside = path.with_suffix(".h5.part")
    with h5py.File(aside, "w") as file:
        features = file.create_dataset("features", data=slide.read(array))
        features.attrs.update({k: _plain(v) for k, v in info.attributes.items()})
        if slide.has("coords"):
            coords = file.create_dataset("coords", data=slide.coords())
            coords.attrs.update({k: _plain(v) for k, v in slide.attributes.items()})
    aside.replace(path)


def _plain(value: Any) -> Any:
    """HDF5 attributes are numbers and words; the rest goes in as JSON."""
    return value if isinstance(value, str | int | float | np.number) else json.dumps(value)


def _only_run(store: FeatureStore) -> str:
    """The one run whose attention the store has."""
    runs: set[str] = set()
    for slide_id in store.slide_ids():
        arrays = store.slide(slide_id).arrays()
        runs |= {decode_key(a.partition("/")[2]) for a in arrays if a.startswith("attention/")}
    if len(runs) == 1:
        return runs.pop()
    listed = ", ".join(sorted(runs)[:5]) or "none"
    raise ConfigError(f"{store.location} holds attention of {listed}; say which with --run")


def _require_h5py() -> None:
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            'HDF5 needs the package h5py: pip install "histotransfer_pl[export]"'
        ) from error


def _what_to_do(what: str) -> str:
    if what == "features":
        return "run extract, or name another encoder and depth"
    return "run predict in the run folder, and name the folder as it was named there"
