"""Slides, features, a stage-1 run and its selection, to measure top-k training with."""

from pathlib import Path

import numpy as np
import pandas as pd

from histotransfer_pl.cli.main import main as command
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.records.grid import GridSettings, TissueSettings
from histotransfer_pl.slides.files import fingerprint
from histotransfer_pl.slides.synthetic import write_pyramid
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path

_COLUMNS = 50
_QUIET = ("--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "1")
_COHORT = ("--data.store", "s.zarr", "--data.cohort", "c.csv", "--data.n_folds", "3")


def prepare(n: int, k: int, side_px: int, encoder_name: str, patients: int) -> None:
    """What top-k training needs, in the current folder: `s.zarr`, `c.csv`, `stage1`.

    Args:
        n: Patches of each slide.
        k: Patches that are selected, as `top`.
        side_px: Side of a patch.
        encoder_name: The encoder; its weights are random, and so are the features.
        patients: Patients of a slide each; one file serves them all.
    """
    rng = np.random.default_rng(0)
    rows = -(-n // _COLUMNS)
    pixels = rng.integers(0, 256, (rows * side_px, _COLUMNS * side_px, 3), np.uint8)
    slide = Path("slide.tiff").absolute()
    write_pyramid(slide, pixels, 0.5)
    settings = GridSettings(patch_px=side_px, tissue=TissueSettings(method="none"))
    encoder = build_encoder(EncoderConfig(encoder_name, "random"))
    depth = encoder.depths[-1]
    place = np.arange(n)
    coords = np.stack([place % _COLUMNS, place // _COLUMNS], axis=1).astype(np.int32) * side_px
    attributes = {"path": str(slide), "fingerprint": fingerprint(slide), "slide_mpp": 0.5}
    facts = {**encoder.provenance, "encoder": encoder.name, "depth": depth}
    store = FeatureStore.open_or_create("s.zarr", settings.to_json())
    with store.writing():
        for i in range(patients):
            added = store.add_slide(f"s{i}", coords, n, attributes)
            features = rng.standard_normal((n, encoder.dims[depth])).astype(np.float16)
            added.write(feature_path(encoder.name, depth), features, facts)
    names = [f"s{i}" for i in range(patients)]
    labels = [i % 2 for i in range(patients)]
    table = pd.DataFrame({"slide_id": names, "patient_id": names, "label": labels})
    table.to_csv("c.csv", index=False)
    for verb in (
        ["fit", "--run_dir", "stage1", *_COHORT, *_QUIET],
        ["predict", "--run_dir", "stage1", *_COHORT, *_QUIET],
        ["select", "--run_dir", "stage1", "--top_k", str(k), "--name", "top"],
    ):
        if command(verb):
            raise SystemExit(f"{verb[0]} failed: its error stands above")
