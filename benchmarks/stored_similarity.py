"""CKA of two encoders, block by block, from features that a store holds: no forward pass.

    python -m benchmarks.stored_similarity --store S.zarr --first A --second B [C ...]

Unbiased linear CKA of the pooled features of every third patch, a block of the first encoder
against the same block of each other one. `similarity` does the same from the slides, for every
pair of blocks and for feature maps.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from histotransfer_pl.analysis.cka import linear_cka
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path


def features(store: FeatureStore, encoder: str, depth: str, every: int) -> Tensor:
    """Features (N, D) of every so many patches, slide by slide."""
    array = feature_path(encoder, depth)
    slides = [torch.from_numpy(store.slide(s).read(array)) for s in store.slide_ids()]
    return torch.cat(slides)[::every].double()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--first", required=True)
    parser.add_argument("--second", nargs="+", required=True)
    parser.add_argument("--every", type=int, default=3, help="Take one patch of so many.")
    arguments = parser.parse_args()
    store = FeatureStore.open(arguments.store)
    found = store.slide(store.slide_ids()[0]).features()
    rows = []
    for depth in [d for e, d in found if e == arguments.first]:
        row: dict[str, object] = {"depth": depth}
        first = features(store, arguments.first, depth, arguments.every)
        row["n"] = len(first)
        for second in arguments.second:
            row[second] = linear_cka(
                first, features(store, second, depth, arguments.every), debiased=True
            )
        rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda v: f"{v:.3f}"))


if __name__ == "__main__":
    main()
