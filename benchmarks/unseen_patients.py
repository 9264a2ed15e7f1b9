"""Models packaged from five folds, applied to the real regions of patients nobody has trained on.

`python -m benchmarks.unseen_patients --folder OUT` trains on the 106 patients of the split `train`
of `idc_breast`, packages each fold, applies them in a folder of its own to the slides of the 52
patients of the split `val` as unlabelled files, compares with what `test` says of the same slides,
and prints a table in Markdown.
"""

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from histotransfer_pl import apply, extract, fit, load_model, package, test
from histotransfer_pl.runs.evaluation import evaluate_table
from histotransfer_pl.runs.predictions import as_table, class_target

_FOLDS = range(5)
_ENCODER = "tf_efficientnet_lite0"
_GRID = {"patch_px": 50, "mpp": 4.0, "tissue": {"method": "non_white"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    folder: Path = parser.parse_args().folder
    data = Path(os.environ["HISTOTRANSFER_DATA"]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    _write_tables(data)
    weights = data / "weights" / f"{_ENCODER}.imagenet.safetensors"
    model = {"weights": str(weights), "depths": ["block3"], "input_px": 112}
    for part in ("train", "val"):
        place = {"cohort": f"{part}.csv", "grid": _GRID, "qc": False}
        extract(data / "idc_breast" / "slides", f"{part}.zarr", _ENCODER, data=place, model=model)
    models = [_train(fold, weights) for fold in _FOLDS]
    clean = Path("clean")
    for path in models:
        shutil.copy(path, clean)
    os.chdir(clean)
    _report([clean.parent.resolve() / name for name in models])


def _write_tables(data: Path) -> None:
    table = pd.read_csv(data / "idc_breast" / "slides.csv", dtype=str)
    for part in ("train", "val"):
        own = table.loc[table["split"] == part, ["slide_id", "patient_id", "label"]]
        own.to_csv(f"{part}.csv", index=False)
    unlabelled = Path("clean") / "slides"
    unlabelled.mkdir(parents=True, exist_ok=True)
    for name in own["slide_id"]:
        file = next((data / "idc_breast" / "slides").glob(f"{name}.*"))
        if not (link := unlabelled / file.name).exists():
            link.symlink_to(file)


def _train(fold: int, weights: Path) -> Path:
    run, out = Path(f"fold{fold}"), Path(f"fold{fold}.safetensors")
    trainer = {"enable_progress_bar": False}
    fit(
        run,
        overwrite=True,
        trainer=trainer,
        data={"store": "train.zarr", "cohort": "train.csv", "fold": fold},
    )
    test(run, trainer=trainer)
    external = {"store": "val.zarr", "cohort": "val.csv"}
    test(run, output_dir=f"val{fold}", trainer=trainer, data=external)
    package(run, out, weights)
    return out


def _report(models: list[Path]) -> None:
    both = apply([path.name for path in models], "slides", "ensemble")
    store = Path("ensemble") / "features.zarr"
    labels = pd.read_csv(Path("..") / "val.csv", dtype=str)
    print(
        "| model | AUROC on 52 unseen patients | balanced accuracy | largest difference to `test` |"
    )
    print("|---|---|---|---|")
    for fold, path in enumerate(models):
        alone = apply([path.name], store=store, out=f"alone{fold}", pictures=False).predictions
        tested = pd.read_csv(
            Path("..") / f"val{fold}" / "test_predictions.csv", dtype={"slide_id": str}
        )
        joined = alone.merge(tested, on="slide_id")
        apart = np.abs(joined["prob_1"] - joined["p_1"]).max()
        print(f"| fold {fold} | {_words(alone, labels)} | {apart:.1e} |")
    print(f"| mean of the five | {_words(both.predictions, labels)} | |")
    size = models[0].stat().st_size / 1e6
    counts = load_model(models[0].name).record.counts
    print(f"\nA model file has {size:.1f} MB; fold 0: {dict(counts)}; {len(both.failed)} failed")


def _words(found: pd.DataFrame, labels: pd.DataFrame) -> str:
    """AUROC and balanced accuracy with their intervals over patients."""
    table = found.assign(slide_id=found["slide_id"].astype(str)).merge(labels, on="slide_id")
    table = table.rename(columns={"prob_0": "p_0", "prob_1": "p_1"})
    checked = as_table(table, class_target(("0", "1")))
    results = {result.name: result for result in evaluate_table(checked)}
    return " | ".join(results[name].in_words(3) for name in ("auroc", "balanced_accuracy"))


if __name__ == "__main__":
    main()
