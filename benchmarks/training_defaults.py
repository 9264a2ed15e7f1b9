"""Which defaults train: settings of `fit`, and which epoch to keep, by the loss on patients.

Bare loops over stored features with the heads and the splits of `fit`:

    python -m benchmarks.training_defaults --store S.zarr --cohort C.csv --where split=train \
        --encoders tf_efficientnet_lite0 mobilenetv2_100 --depth head

Prints, per encoder and setting, the least validation loss and its epoch (mean over folds and
seeds), and what each rule to keep an epoch gives on the test part.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from benchmarks.bare_training import SETTINGS, Bags, Setting, epochs, measure, pack, standardized
from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.tasks.heap import keep_freed_memory

MONITORS = {"val_loss": True, "val_auroc": False, "val_accuracy": False}
"""What may choose the epoch, and whether less is better."""


def bags_of(data: FeatureDataModule, part: str) -> Bags:
    """The bags of a part in memory."""
    rows = data.bags[data.bags["part"] == part]
    number = {name: i for i, name in enumerate(data.classes)}
    features = [data.read_bag(ids) for ids in rows["slide_ids"]]
    return features, torch.tensor([number[label] for label in rows["label"]])


def train(parts: dict[str, Bags], setting: Setting, seed: int, hidden: list[int]) -> pd.DataFrame:
    """One row per epoch."""
    packed = {"val": pack(parts["validation"]), "test": pack(parts["test"])}
    rows = []
    for epoch, (head, _) in enumerate(epochs(parts, setting, seed, hidden)):
        row: dict[str, float] = {"epoch": epoch}
        for part, batch in packed.items():
            row |= {f"{part}_{name}": value for name, value in measure(head, batch).items()}
        rows.append(row)
    return pd.DataFrame(rows)


def run(arguments: argparse.Namespace) -> pd.DataFrame:
    """Train every setting on every encoder, fold and seed."""
    cohort = pd.read_csv(arguments.cohort, dtype={"slide_id": str, "patient_id": str})
    column, _, value = arguments.where.partition("=")
    cohort = cohort[cohort[column].astype(str) == value] if column else cohort
    frames = []
    with TemporaryDirectory() as folder:
        table = Path(folder) / "cohort.csv"
        cohort.to_csv(table, index=False)
        for encoder in arguments.encoders:
            for fold in range(arguments.folds):
                place = {"fold": fold, "n_folds": arguments.folds}
                data = FeatureDataModule(arguments.store, table, encoder, arguments.depth, **place)
                data.setup("fit")
                raw = {part: bags_of(data, part) for part in ("train", "validation", "test")}
                scaled = standardized(raw)
                for name in arguments.settings:
                    parts = scaled if SETTINGS[name].standardize else raw
                    for seed in range(arguments.seeds):
                        frame = train(parts, SETTINGS[name], seed, arguments.hidden)
                        facts = {"encoder": encoder, "setting": name, "fold": fold}
                        frames.append(frame.assign(**facts, seed=seed))
                print(f"{encoder} fold {fold}", flush=True)
    return pd.concat(frames, ignore_index=True)


def summarize(curves: pd.DataFrame) -> str:
    """What each setting and each rule to keep an epoch gives."""
    lines = []
    for (encoder, setting), own in curves.groupby(["encoder", "setting"], sort=False):
        row: dict[str, object] = {"encoder": encoder, "setting": setting}
        for monitor, least in MONITORS.items():
            kept = [
                one.sort_values(monitor, ascending=least, kind="stable").iloc[0]
                for _, one in own.groupby(["fold", "seed"])
            ]
            table = pd.DataFrame(kept)
            if monitor == "val_loss":
                row["val_loss"] = table["val_loss"].mean()
                row["epoch"] = table["epoch"].median() + 1
                row["first"] = f"{(table['epoch'] == 0).sum()}/{len(table)}"
            for what in ("loss", "auroc", "accuracy"):
                row[f"{what}|{monitor.removeprefix('val_')}"] = table[f"test_{what}"].mean()
        lines.append(row)
    return pd.DataFrame(lines).to_string(index=False, float_format=lambda v: f"{v:.3f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--where", default="", help="Rows of the cohort, such as split=train.")
    parser.add_argument("--encoders", nargs="+", required=True)
    parser.add_argument("--depth", required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hidden", type=int, nargs="*", default=[256, 64])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--output", type=Path, help="Table of all epochs.")
    arguments = parser.parse_args()
    keep_freed_memory()
    started = time.process_time()
    curves = run(arguments)
    if arguments.output is not None:
        curves.to_csv(arguments.output, index=False)
    print(summarize(curves))
    print(f"{time.process_time() - started:.0f} s of CPU time")


if __name__ == "__main__":
    main()
