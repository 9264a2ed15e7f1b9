"""An epoch of bags without a model: `python -m benchmarks.datamodule_epoch`."""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.material import FEATURES, ragged_lengths, write_bags
from benchmarks.program import run
from benchmarks.result import Result, compare
from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.store.layout import encode_key
from histotransfer_pl.tasks.heap import keep_freed_memory


def measure(
    bags: int = 40,
    smallest: int = 200,
    largest: int = 20_000,
    width: int = 1024,
    batch_size: int = 1,
    rounds: int = 15,
) -> list[Result]:
    """`FeatureDataModule` against `np.fromfile` of the same bags; files lie in the page cache.

    Args:
        bags: Slides of the cohort, of which three fifths train.
        smallest: Patches of the smallest bag.
        largest: Patches of the largest.
        width: Features of a patch.
        batch_size: Bags of a step.
        rounds: Epochs.
    """
    keep_freed_memory()  # for both ways, as the command line does
    with tempfile.TemporaryDirectory() as name:
        root, table = Path(name) / "bags.zarr", Path(name) / "cohort.csv"
        write_bags(root, table, ragged_lengths(bags, smallest, largest), width)

        def loader(cache_gb: float) -> FeatureDataModule:
            data = FeatureDataModule(root, table, batch_size=batch_size, cache_gb=cache_gb)
            data.setup("fit")
            return data

        read_anew, kept = loader(0.0), loader(2.0)
        files = [
            root / encode_key(slide_id) / FEATURES / "c/0/0" for slide_id in read_anew.split.train
        ]
        loaders = {False: read_anew.train_dataloader(), True: kept.train_dataloader()}

        def epoch(cached: bool) -> int:
            return sum(len(batch.features) for batch in loaders[cached])

        def raw(_: int) -> int:
            total = 0
            for path in files:  # a bag is held until the next one is read, as in training
                bag = np.fromfile(path, np.float16).reshape(-1, width)
                total += len(bag)
            return total

        size = sum(path.stat().st_size for path in files) / 1e6
        notes = f"{len(files)} bags of {smallest} to {largest} patches, {batch_size} per step"
        against = "epoch, no model, vs np.fromfile of the same bags"
        return [
            compare(f"FeatureDataModule {against}", 1.3, lambda _: epoch(False), raw, rounds,
                    notes=f"{notes}, read in every epoch", amount=size, unit="MB"),
            compare(f"FeatureDataModule, bags kept in memory, {against}", 1.3,
                    lambda _: epoch(True), raw, rounds, notes=f"{notes}, later epochs",
                    amount=size, unit="MB"),
        ]  # fmt: skip


if __name__ == "__main__":
    run("datamodule_epoch", measure, {"bags": 10, "largest": 400, "width": 64, "rounds": 3})
