"""How to tune on top-k patches: learning rate, freezing and epochs apart, on validation parts.

    python -m benchmarks.tuning_settings --store S.zarr --cohort C.csv --where split=train \
        --slides SLIDES --encoder tf_efficientnet_lite0 --weights W.safetensors --folder OUT

Per seed one fold: stage 1 with the defaults of `fit`, a selection, and one tuning per setting. The
table has the validation loss and AUROC after each epoch; nothing is tested. A second call goes on
where the first ended.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd

from histotransfer_pl import fit, predict
from histotransfer_pl.tasks.selecting import select_patches

FREEZE_UNTIL = {"free": None, "frozen": "block3"}
TRAINER = {"enable_progress_bar": False}


def read_curve(run: Path) -> pd.DataFrame:
    """Validation loss and AUROC of a run, one row per epoch."""
    table = pd.read_csv(run / "metrics" / "fit" / "metrics.csv")
    return table.dropna(subset="val/loss")[["epoch", "val/loss", "val/auroc"]]


def stage1(arguments: argparse.Namespace, cohort: Path, seed: int) -> Path:
    """The run from which all settings of a seed start; its fold is the seed."""
    run: Path = arguments.folder / f"{arguments.encoder}-{seed}" / "stage1"
    data = {"store": arguments.store, "cohort": cohort, "fold": seed}
    data |= {"encoder": arguments.encoder, "depth": "head"}
    if not (run / "predictions.csv").is_file():
        fit(run, seed_everything=seed, data=data, trainer=TRAINER, overwrite=True)
        predict(run, trainer=TRAINER)
    return run


def tune(
    arguments: argparse.Namespace, cohort: Path, seed: int, k: int, lr: float, freeze: str
) -> pd.DataFrame:
    """The curve of one tuning."""
    before = stage1(arguments, cohort, seed)
    run: Path = before.parent / f"k{k}-{lr:g}-{freeze}"
    selection = f"tuning-{arguments.encoder}-{seed}-{k}"
    select_patches(before, k, "attention", selection)
    data = {
        "class_path": "TopKPatchDataModule",
        "init_args": {
            "store": arguments.store, "cohort": cohort, "fold": seed, "selection": selection,
            "slides": arguments.slides, "batch_size": 4, "eval_patches": 128,
            "cache": "disk", "cache_dir": arguments.folder / "patches",
        },
    }  # fmt: skip
    model = {
        "class_path": "TopKFineTuner",
        "init_args": {
            "stage1": before, "encoder": arguments.encoder, "weights": arguments.weights,
            "input_px": arguments.input_px, "encoder_lr": lr, "head_lr": 1e-4,
            "freeze_until": FREEZE_UNTIL[freeze], "weight_decay": 0.01, "warmup_steps": 20,
            "schedule": "cosine", "optimizer": {"class_path": "torch.optim.AdamW"},
        },
    }  # fmt: skip
    if not (run / "run.json").is_file():
        trainer = {**TRAINER, "max_epochs": arguments.epochs}
        checkpoint = {"monitor": "val/loss", "mode": "min"}
        settings: dict[str, Any] = {"model": model, "data": data, "checkpoint": checkpoint}
        fit(run, seed_everything=seed, trainer=trainer, overwrite=True, **settings)
    return read_curve(run)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name in ("store", "cohort", "slides", "weights", "folder"):
        parser.add_argument(f"--{name}", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--where", default="", help="Rows of the cohort, such as split=train.")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--input_px", type=int, default=112)
    parser.add_argument("--k", type=int, nargs="+", default=[8])
    parser.add_argument("--lr", type=float, nargs="+", default=[3e-5, 1e-4])
    parser.add_argument("--freeze", nargs="+", default=list(FREEZE_UNTIL))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    frame = pd.read_csv(arguments.cohort, dtype=str)
    column, _, value = arguments.where.partition("=")
    cohort = arguments.folder / "cohort.csv"
    (frame[frame[column] == value] if column else frame).to_csv(cohort, index=False)
    rows = []
    for seed in arguments.seeds:
        for k in arguments.k:
            for lr in arguments.lr:
                for freeze in arguments.freeze:
                    started = time.process_time()
                    curve = tune(arguments, cohort, seed, k, lr, freeze)
                    facts = {"seed": seed, "k": k, "lr": lr, "freeze": freeze}
                    rows.append(curve.assign(**facts, cpu_s=time.process_time() - started))
                    print(rows[-1].to_string(index=False, header=False), flush=True)
        own = read_curve(stage1(arguments, cohort, seed))
        best = own.sort_values("val/loss").iloc[0]
        print(f"seed {seed}: stage 1 {best['val/loss']:.3f} {best['val/auroc']:.3f}", flush=True)
    table = pd.concat(rows)
    table.to_csv(arguments.folder / f"{arguments.encoder}.csv", index=False)
    means = table.groupby(["k", "lr", "freeze", "epoch"])[["val/loss", "val/auroc"]].mean()
    print(means.unstack("epoch").round(3).to_string())


if __name__ == "__main__":
    main()
