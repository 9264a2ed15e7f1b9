"""A painted cohort of slides on disk: the built-in demonstration, and slides for tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from numpy.typing import NDArray
from PIL import Image

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.files import replacing, write_text
from histotransfer_pl.records.tables import write_table
from histotransfer_pl.slides.painting import mix_stain, paint_section

PAINT_VERSION = 1
"""Raised when the same settings paint something else."""

SYNTHETIC_MPP = 0.5
"""Micrometres per pixel of painted slides."""

_JPEG_QUALITY = 85
_DOWNSAMPLES = (4, 16)
_SMALLEST_PX = 512
_RECORD = "painted.json"


def paint_cohort(
    folder: str | Path,
    n_patients: int = 12,
    slides_per_patient: int = 2,
    seed: int = 0,
    size_px: int = 2688,
    n_foci: int | None = None,
    focus_scale: float = 1.0,
) -> Path:
    """Paints slides of two classes that differ in the look of nuclei in some foci.

    Slides of a patient share their stain and alternate between the classes, so that colour tells
    the patient and not the class. Writes ``slides/<slide_id>.tiff`` (tiled pyramids with their
    resolution), ``truth/<slide_id>.geojson`` (outlines of the foci, level-0 pixels, for slides
    that have some), and last ``cohort.csv`` (slide_id, path, patient_id, label). The same
    settings paint the same bytes; a folder that holds them already is left as it is.

    Args:
        folder: Where to write; made if missing.
        n_patients: Number of patients.
        slides_per_patient: Slides of each.
        seed: Source of everything that varies.
        size_px: Side of a slide in pixels of half a micrometre; 2,688 gives about 70 patches of
            224 px with tissue.
        n_foci: Foci of a slide with tumour; two or three when None.
        focus_scale: Their size; 1 gives radii of about a tenth of the slide's side.

    Returns:
        The path of ``cohort.csv``.
    """
    if n_patients < 1 or slides_per_patient < 1 or seed < 0 or size_px < _SMALLEST_PX:
        raise ConfigError(
            f"n_patients {n_patients}, slides_per_patient {slides_per_patient}, seed {seed}, "
            f"size_px {size_px}: expected at least 1, 1, 0 and {_SMALLEST_PX}"
        )
    if (n_foci is not None and n_foci < 1) or focus_scale <= 0:
        raise ConfigError(
            f"n_foci is {n_foci} and focus_scale {focus_scale}: give at least one focus, of a "
            "size above 0"
        )
    folder = Path(folder)
    table = folder / "cohort.csv"
    settings: dict[str, float] = {
        "paint_version": PAINT_VERSION,
        "n_patients": n_patients,
        "slides_per_patient": slides_per_patient,
        "seed": seed,
        "size_px": size_px,
    }
    foci: dict[str, Any] = {"n_foci": n_foci, "focus_scale": focus_scale}
    if foci != {"n_foci": None, "focus_scale": 1.0}:  # else as cohorts were recorded before
        settings |= foci
    if already_painted(folder, settings):
        return table
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    start_painting(folder, settings)
    rows = [
        _paint_slide(folder, patient, slide, seed, size_px, foci)
        for patient in range(n_patients)
        for slide in range(slides_per_patient)
    ]
    _write_table(table, rows)
    return table


def start_painting(folder: Path, settings: dict[str, float]) -> None:
    """Make the folders, and note what will be painted."""
    (folder / "slides").mkdir(parents=True, exist_ok=True)
    (folder / _RECORD).write_text(json.dumps(settings) + "\n", encoding="utf-8")


def already_painted(folder: Path, settings: dict[str, float]) -> bool:
    """Whether this very cohort is there, complete: its table is written last."""
    table, record = folder / "cohort.csv", folder / _RECORD
    if not record.is_file():
        if table.exists():
            raise ConfigError(f"{table} exists and was not painted here; give another folder")
        return False
    found = json.loads(record.read_text(encoding="utf-8"))
    if found != settings:
        raise ConfigError(
            f"{record.parent} holds a cohort painted with {found}, asked for {settings}; give "
            "another folder or remove this one"
        )
    return table.is_file()


def _paint_slide(
    folder: Path, patient: int, slide: int, seed: int, size_px: int, foci: dict[str, Any]
) -> list[str]:
    """Paints and writes one slide; returns its row of the table."""
    patient_id = f"patient_{patient:02d}"
    slide_id = f"{patient_id}_slide_{slide}"
    tumour = (patient + slide) % 2 == 1
    # Streams of their own: a slide looks the same in a smaller or larger cohort.
    stain = mix_stain(np.random.default_rng([seed, patient]))
    rng = np.random.default_rng([seed, patient, slide])
    painted = paint_section(rng, size_px, stain, tumour=tumour, **foci)
    path = Path("slides") / f"{slide_id}.tiff"
    write_pyramid(folder / path, painted.rgb, SYNTHETIC_MPP)
    if painted.foci:
        _write_outlines(folder / "truth" / f"{slide_id}.geojson", painted.foci)
    return [slide_id, path.as_posix(), patient_id, "tumour" if tumour else "normal"]


def write_pyramid(path: Path, rgb: NDArray[np.uint8], mpp: float) -> None:
    """Writes a tiled JPEG TIFF with coarser levels and its resolution, as OpenSlide reads it.

    Args:
        path: The file; it appears whole or not at all.
        rgb: (h, w, 3) level 0.
        mpp: Micrometres per pixel of level 0.
    """
    image = Image.fromarray(rgb)
    with replacing(path) as aside, tifffile.TiffWriter(aside) as tiff:
        for downsample in (1, *_DOWNSAMPLES):
            if downsample > 1 and min(rgb.shape[:2]) < downsample:
                break
            per_centimetre = 10_000 / (mpp * downsample)
            tiff.write(
                np.asarray(image.reduce(downsample)),
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": _JPEG_QUALITY},
                subfiletype=0 if downsample == 1 else 1,
                resolution=(per_centimetre, per_centimetre),
                resolutionunit="CENTIMETER",
                software="histotransfer_pl",
                metadata=None,
            )


def _write_outlines(path: Path, outlines: list[NDArray[np.float64]]) -> None:
    """Foci as QuPath annotations."""
    features = [
        {
            "type": "Feature",
            "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
            "geometry": {
                "type": "Polygon",
                "coordinates": [np.vstack([outline, outline[:1]]).round(1).tolist()],
            },
        }
        for outline in outlines
    ]
    collection = {"type": "FeatureCollection", "features": features}
    write_text(path, json.dumps(collection) + "\n")


def _write_table(path: Path, rows: list[list[str]]) -> None:
    write_table(path, pd.DataFrame(rows, columns=["slide_id", "path", "patient_id", "label"]))
