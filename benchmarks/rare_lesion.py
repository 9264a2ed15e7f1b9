"""Does attention's choice of patches matter? Painted slides of hundreds of patches, a rare lesion.

    python -m benchmarks.rare_lesion --folder OUT --weights tf_efficientnet_lite0.safetensors

Paints, extracts, trains stage 1 on each fold, selects k patches by attention, at random and with
least attention, and tunes on the first two. Prints the share of patches of the lesion among all
patches and among the selected ones of the test slides that have one, and the AUROC of the test
folds: frozen, tuned on the k most attended, tuned on k random patches.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from histotransfer_pl import extract, fit, predict, test
from histotransfer_pl.cli.main import main as run_verb
from histotransfer_pl.data.selection import Rule, read_selection
from histotransfer_pl.runs.evaluation import evaluate_table
from histotransfer_pl.runs.predictions import as_table, class_target
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.tasks.selecting import select_patches

ENCODER = "tf_efficientnet_lite0"
PATCH_PX = 112
GRID = {"patch_px": PATCH_PX, "mpp": 0.5}
RULES: tuple[Rule, ...] = ("attention", "random", "bottom")
TRAINER = {"enable_progress_bar": False}


def in_lesion(coords: NDArray[np.int32], outlines: Path) -> NDArray[np.bool_]:
    """Whether the middle of each patch (N, 2) lies in an outlined focus."""
    if not outlines.is_file():
        return np.zeros(len(coords), np.bool_)
    features = json.loads(outlines.read_text())["features"]
    middles = coords + PATCH_PX / 2
    rings = [one["geometry"]["coordinates"][0] for one in features]
    inside = [Outline(ring).contains_points(middles) for ring in rings]  # each (N,)
    return np.asarray(np.any(inside, axis=0), np.bool_)


def shares(folder: Path, names: list[str], slides: list[str]) -> pd.DataFrame:
    """Share of lesion patches of each slide: of all of them, and of each selection."""
    store = FeatureStore.open(folder / "store.zarr")
    rows = []
    for slide_id in slides:
        slide = store.slide(slide_id)
        lesion = in_lesion(slide.read("coords"), folder / "painted/truth" / f"{slide_id}.geojson")
        chosen = {n: lesion[read_selection(slide, n).rows].mean() for n in names}
        rows.append({"patches": len(lesion), "all": lesion.mean(), **chosen})
    return pd.DataFrame(rows).rename(columns=lambda name: str(name).split("-")[0])


def run_fold(arguments: argparse.Namespace, fold: int) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Shares of lesion patches in the test slides, and the predictions of each arm."""
    folder: Path = arguments.folder
    place = {"store": folder / "store.zarr", "cohort": folder / "painted/cohort.csv", "fold": fold}
    before = folder / f"stage1-{fold}"
    if not (before / "predictions.csv").is_file():
        features = {**place, "encoder": ENCODER, "depth": "head"}
        fit(before, data=features, trainer=TRAINER, overwrite=True)
        test(before, trainer=TRAINER)
        predict(before, trainer=TRAINER)
    names = [f"{rule}-{fold}-{arguments.k}" for rule in RULES]
    for rule, name in zip(RULES, names, strict=True):
        select_patches(before, arguments.k, rule, name)
    runs = [before]
    for name in names[: 2 if fold < arguments.tuned_folds else 0]:
        data = {**place, "selection": name, "batch_size": 4, "eval_patches": 128}
        model = {
            "stage1": before, "encoder": ENCODER, "weights": arguments.weights, "input_px": 96,
            "encoder_lr": arguments.lr, "head_lr": 1e-4, "weight_decay": 0.01,
            "optimizer": {"class_path": "torch.optim.AdamW"}, "schedule": "cosine",
        }  # fmt: skip
        runs.append(folder / f"tuned-{name}")
        if not (runs[-1] / "test_predictions.csv").is_file():
            fit(
                runs[-1],
                data={"class_path": "TopKPatchDataModule", "init_args": data},
                model={"class_path": "TopKFineTuner", "init_args": model},
                trainer={**TRAINER, "max_epochs": arguments.epochs},
                overwrite=True,
            )
            test(runs[-1], trainer=TRAINER)
    tables = [pd.read_csv(run / "test_predictions.csv", dtype={"slide_id": str}) for run in runs]
    truth = folder / "painted" / "truth"
    slides = [s for s in tables[0]["slide_id"] if (truth / f"{s}.geojson").is_file()]
    return shares(folder, names, slides), tables


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--weights", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--size_px", type=int, default=3104)
    parser.add_argument("--focus_scale", type=float, default=0.4)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--tuned_folds", type=int, default=5, help="Tune in the first of them.")
    arguments = parser.parse_args()
    started = time.process_time()
    folder: Path = arguments.folder
    if not (folder / "painted" / "cohort.csv").is_file():
        paint = {"folder": folder / "painted", "n_foci": 1, "size_px": arguments.size_px}
        paint |= {"patients": arguments.patients, "focus_scale": arguments.focus_scale}
        run_verb(["paint", *(f"--{name}={value}" for name, value in paint.items())])
    if not (store := folder / "store.zarr").is_dir():
        place = {"cohort": folder / "painted" / "cohort.csv", "grid": GRID, "qc": False}
        model = {"weights": arguments.weights, "depths": ["head"], "input_px": 96}
        extract(folder / "painted", store, ENCODER, data=place, model=model)
    found = [run_fold(arguments, fold) for fold in range(arguments.folds)]
    print(pd.concat([share for share, _ in found]).agg(["mean", "std", "count"]).round(4))
    target = class_target(("normal", "tumour"))
    tuned = [tables for _, tables in found if len(tables) == 3]
    for number, arm in enumerate(("frozen", "top-k", "random-k") if tuned else ()):
        table = pd.concat([tables[number].assign(fold=i) for i, tables in enumerate(tuned)])
        results = {r.name: r for r in evaluate_table(as_table(table, target))}
        print(f"{arm}, {len(table)} slides: AUROC {results['auroc'].in_words(3)}")
    everyone = pd.concat([tables[0].assign(fold=i) for i, (_, tables) in enumerate(found)])
    results = {r.name: r for r in evaluate_table(as_table(everyone, target))}
    print(f"frozen, all {len(everyone)} slides: AUROC {results['auroc'].in_words(3)}")
    print(f"{time.process_time() - started:.0f} s of CPU time")


if __name__ == "__main__":
    main()
