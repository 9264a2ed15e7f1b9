"""How much of each depth is the patient: `python -m benchmarks.patients_as_sites --store S.zarr`.

On the real breast regions (`HISTOTRANSFER_DATA`) every patient is a site, and regions are what is
kept apart. Patients with three regions: a linear probe on region means names the patient of the
third region from the other two. Patches, with their own labels: do near patches of other regions
share the class or the patient? One row per encoder and depth, with intervals over patients.
"""

import argparse
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.scanners import span
from histotransfer_pl.analysis.site_layers import SiteRows, name_sites, robustness_of_layers
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path

_NEEDED = 5
"""Patches of the other class that each patch needs in other regions of its patient, for CRoMa."""


def patches_of(store: FeatureStore, tiles: pd.DataFrame) -> pd.DataFrame:
    """One row per stored patch with a label, in the order of the store: row, region, patient."""
    rows = []
    for slide_id, own in tiles.groupby("slide_id"):
        coords = store.slide(str(slide_id)).read("coords")  # (N, 2)
        stored = pd.DataFrame({"x": coords[:, 0], "y": coords[:, 1], "row": np.arange(len(coords))})
        rows.append(stored.merge(own, on=["x", "y"], validate="one_to_one"))
    return pd.concat(rows, ignore_index=True)


def comparable(patches: pd.DataFrame) -> pd.DataFrame:
    """Patches of the patients all of whose patches can be held against the other class."""
    of_patient, of_region = (
        patches.groupby([unit, "idc"]).size().unstack(fill_value=0)
        for unit in ("patient_id", "slide_id")
    )
    elsewhere = pd.Series(
        [
            of_patient.loc[patient, 1 - label] - of_region.loc[region, 1 - label]
            for patient, region, label in zip(
                patches["patient_id"], patches["slide_id"], patches["idc"], strict=True
            )
        ]
    )
    kept = (elsewhere >= _NEEDED).groupby(patches["patient_id"]).transform("all")
    return patches[kept].reset_index(drop=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--encoders", nargs="+", required=True, help="Names in the store.")
    parser.add_argument("--output", type=Path, required=True, help="CSV file, one row per depth.")
    arguments = parser.parse_args()
    data = Path(os.environ["HISTOTRANSFER_DATA"]) / "idc_breast"
    # two regions to learn each of 76 patients from: many classes indeed
    warnings.filterwarnings("ignore", "The number of unique classes is greater", UserWarning)
    started = time.process_time()
    store = FeatureStore.open(arguments.store)
    tiles = pd.read_csv(data / "tiles.csv", dtype={"slide_id": str, "patient_id": str})
    patches = comparable(patches_of(store, tiles))
    regions = tiles.drop_duplicates("slide_id")
    of_three = regions.groupby("patient_id")["slide_id"].transform("size") == 3
    regions = regions[of_three]
    print(
        f"naming: {len(regions)} regions of {regions['patient_id'].nunique()} patients; "
        f"neighbours: {len(patches)} patches of {patches['patient_id'].nunique()} patients"
    )
    tables = []
    for encoder in arguments.encoders:
        depths = [d for e, d in store.slide(store.slide_ids()[0]).features() if e == encoder]
        depths.sort(key=lambda depth: (depth != "stem", depth == "head", depth))
        tables.append(measure(store, encoder, depths, regions, patches))
        print(tables[-1].to_string(index=False), flush=True)
    pd.concat(tables).to_csv(arguments.output, index=False)
    print(f"{time.process_time() - started:.0f} s of CPU time")


def measure(
    store: FeatureStore,
    encoder: str,
    depths: list[str],
    regions: pd.DataFrame,
    patches: pd.DataFrame,
) -> pd.DataFrame:
    """One row per depth of an encoder."""
    means, rows = {}, {}
    for depth in depths:
        array = feature_path(encoder, depth)
        bags = {s: store.slide(s).read(array).astype(np.float32) for s in set(regions["slide_id"])}
        means[depth] = np.stack([bags[s].mean(0) for s in regions["slide_id"]])  # (S, D)
        rows[depth] = np.concatenate(
            [
                store.slide(str(slide_id)).read(array)[own["row"].to_numpy()].astype(np.float32)
                for slide_id, own in patches.groupby("slide_id", sort=False)
            ]
        )  # (N, D)
    patient = regions["patient_id"].to_numpy(str)
    by_region = SiteRows(patient, patient, apart=regions["slide_id"].to_numpy(str))
    named = name_sites(means, by_region, n_folds=3, n_inner_folds=2)
    owner = patches["patient_id"].to_numpy(str)
    by_patch = SiteRows(
        owner, owner, patches["idc"].to_numpy(str), patches["slide_id"].to_numpy(str)
    )
    robust = robustness_of_layers(rows, by_patch)
    return pd.DataFrame(
        [
            {
                "encoder": encoder,
                "depth": depth,
                "patient named": span(named[depth]),
                "RI": span(robust[depth].index),
                "CRoMa": span(robust[depth].margin),
                "k": robust[depth].k,
                "RI by chance": f"{robust[depth].by_chance:.3f}",
            }
            for depth in depths
        ]
    )


if __name__ == "__main__":
    main()
