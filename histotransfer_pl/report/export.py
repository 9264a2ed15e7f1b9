"""Attention and features of a store as files for other programs."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from histotransfer_pl.errors import AnalysisError, ConfigError, HistoTransferError, StoreError
from histotransfer_pl.records.done import Done
from histotransfer_pl.records.files import replacing
from histotransfer_pl.runs.record import ALL_PREDICTIONS, load_run
from histotransfer_pl.store.attention import has_attention_of, read_attention
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.foreign import FeatureFormat, write_foreign
from histotransfer_pl.store.layout import COORDS, encode_key, feature_path
from histotransfer_pl.store.slide import StoredSlide

_log = logging.getLogger(__name__)


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
) -> Done:
    """Write files for other programs: attention of each slide, or its features.

    Args:
        store: Store that holds them.
        out: Folder to write.
        what: ``attention``: ``<slide>.geojson`` for QuPath, ``<slide>.png`` and ``<slide>.svg`` for
            print; ``features``: one file per slide.
        run_dir: Run folder whose ``predict`` wrote the attention; may be left out if there is one.
        encoder: Encoder of the features.
        depth: Depth of the features.
        format: Whose files the features become: ``clam``, ``trident``, ``stamp``, ``pt`` (tensors),
            or ``h5``, which also has the provenance.
        top_k: At most so many patches of a slide are of the class ``Top attention`` in QuPath.
        slide_ids: Slides; all that have the array by default.
    """
    opened = FeatureStore.open(store)
    if what == "features":
        if encoder is None or depth is None:
            raise ConfigError("export of features needs --encoder and --depth")
        array = feature_path(encoder, depth)
        held = (slide.slide_id for slide in opened if slide.has(array))
        export_one = _features_exporter(opened, array, format, out)
        missing = f"{array}: run extract, or name another encoder and depth"
    else:
        run = _named_run(opened, run_dir)
        held = (s.slide_id for s in opened if has_attention_of(s, *run.names))
        export_one = _attention_exporter(opened, run, out, top_k)
        missing = f"attention of {run.title}: run predict in the run folder"
    chosen = slide_ids or list(held)
    if not chosen:
        raise StoreError(f"no slide of {opened.location} has {missing}")
    out.mkdir(parents=True, exist_ok=True)
    files: list[Path | str] = []
    failures: dict[str, str] = {}
    for slide_id in chosen:
        try:
            files += export_one(slide_id)
        except HistoTransferError as error:
            failures[slide_id] = str(error)
            _log.warning(f"{slide_id}: {error}")
    slides = len(chosen) - len(failures)
    line = f"wrote {what} of {slides} slides into {out}; {len(failures)} failed"
    return Done([line], files, {"slides": slides}, failures)


@dataclass(frozen=True)
class _NamedRun:
    """A run as the store and as people call it."""

    names: tuple[str, ...]
    title: str
    outcomes: Mapping[str, str]


def _named_run(store: FeatureStore, run_dir: str | None) -> _NamedRun:
    """The run in a folder, or the one run that the store has attention of."""
    if run_dir is None:
        runs = store.attention_runs()
        if len(runs) != 1:
            listed = ", ".join(run[:12] for run in runs[:5]) or "none"
            raise ConfigError(f"{store.location} holds attention of {listed}; give --run_dir")
        return _NamedRun((runs[0],), runs[0][:12], {})
    folder = Path(run_dir)
    try:
        names: tuple[str, ...] = (load_run(folder).id, run_dir)
    except AnalysisError:
        names = (run_dir,)  # the folder is gone or of an earlier release; its name may do
    return _NamedRun(names, folder.name, _outcomes(folder))


def _outcomes(folder: Path) -> dict[str, str]:
    path = folder / ALL_PREDICTIONS
    if not path.is_file():
        return {}
    from histotransfer_pl.records.tables import read_table  # pandas: not for the help of the verb

    table = read_table(path, ("slide_id", "patient_id", "part", "label", "predicted"))
    if "slide_id" not in table:
        return {}
    sure = table[[c for c in table if str(c).startswith("p_")]].max(axis=1)
    return {
        str(row["slide_id"]): f"label {row['label'] or 'unknown'}; the model says "
        f"{row['predicted']} with {100 * chance:.0f} % ({row['part']} part)"
        for (_, row), chance in zip(table.iterrows(), sure, strict=True)
    }


def _attention_exporter(
    store: FeatureStore, run: _NamedRun, out: Path, top_k: int
) -> Callable[[str], tuple[Path, ...]]:
    # matplotlib takes a second, which the help of the verb should not
    from histotransfer_pl.report.attention_figure import SlideWords
    from histotransfer_pl.report.attention_files import write_attention_files

    def export_one(slide_id: str) -> tuple[Path, ...]:
        slide = store.slide(slide_id)
        weights = read_attention(slide, *run.names)
        words = SlideWords(slide_id, run.title, run.outcomes.get(slide_id, ""))
        stem = write_attention_files(slide, weights, words, out, top_k)
        return tuple(out / f"{stem}.{kind}" for kind in ("geojson", "png", "svg"))

    return export_one


def _features_exporter(
    store: FeatureStore, array: str, kind: FeatureFormat, out: Path
) -> Callable[[str], tuple[Path, ...]]:
    _require_h5py()

    def export_one(slide_id: str) -> tuple[Path, ...]:
        slide = store.slide(slide_id)
        path = out / f"{encode_key(slide_id)}.{'pt' if kind == 'pt' else 'h5'}"
        if kind == "h5":
            write_features(slide, array, path)
        else:
            coords = slide.coords() if slide.has(COORDS) else None
            facts = {"grid": store.grid, **slide.info(array).attributes, **slide.attributes}
            write_foreign(path, slide.read(array), coords, facts, kind)
        return (path,)

    return export_one


def write_features(slide: StoredSlide, array: str, path: Path) -> None:
    """Write ``features`` (N, D), ``coords`` (N, 2), and their provenance as attributes."""
    import h5py

    info = slide.info(array)
    with replacing(path) as aside, h5py.File(aside, "w") as file:
        features = file.create_dataset("features", data=slide.read(array))
        features.attrs.update({k: _plain(v) for k, v in info.attributes.items()})
        if slide.has(COORDS):
            coords = file.create_dataset("coords", data=slide.coords())
            coords.attrs.update({k: _plain(v) for k, v in slide.attributes.items()})


def _plain(value: Any) -> Any:
    """HDF5 attributes are numbers and words; the rest goes in as JSON."""
    return value if isinstance(value, str | int | float | np.number) else json.dumps(value)


def _require_h5py() -> None:
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            'HDF5 needs the package h5py: pip install "histotransfer_pl[export]"'
        ) from error
