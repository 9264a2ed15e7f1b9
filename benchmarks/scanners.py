"""Is a scanner of known strength seen? `python -m benchmarks.scanners --folder OUT`.

Paints the same slides for several strengths of scanner B (0: both scanners see alike), extracts
every depth of two networks with ImageNet weights (`HISTOTRANSFER_DATA`) and of colour alone, and
prints per strength and depth how well the scanner is named, the robustness index, CRoMa, and the
AUROC of a linear probe for the label, which does not depend on the scanner; intervals over
patients.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd

from histotransfer_pl import extract
from histotransfer_pl.analysis.bootstrap import Interval, bootstrap_interval
from histotransfer_pl.analysis.metrics import auroc
from histotransfer_pl.analysis.predictions import Predictions
from histotransfer_pl.analysis.probe import linear_probe
from histotransfer_pl.analysis.site_layers import SiteRows, sites_of_layers
from histotransfer_pl.data.slide_means import mean_features
from histotransfer_pl.slides.painted_outcomes import paint_outcomes
from histotransfer_pl.store.feature_store import FeatureStore

STRENGTHS = (0.0, 0.1, 0.3, 1.0)
_WEIGHTS = {
    "tf_efficientnet_lite0": "tf_efficientnet_lite0.imagenet",
    "mobilenetv2_100": "mobilenetv2_100.imagenet_nohead",
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=80)
    arguments = parser.parse_args()
    started, tables = time.process_time(), []
    for strength in STRENGTHS:
        folder = arguments.folder / f"scanner_{strength:g}"
        cohort = pd.read_csv(
            paint_outcomes(folder, arguments.patients, scanner=strength), dtype={"slide_id": str}
        )
        store = extract_all(folder)
        for encoder in (*_WEIGHTS, "colour"):
            table = measure(store, encoder, cohort)
            tables.append(table.assign(strength=strength))
            print(tables[-1].to_string(index=False), flush=True)
    pd.concat(tables).to_csv(arguments.folder / "scanners.csv", index=False)
    print(f"{time.process_time() - started:.0f} s of CPU time")


def extract_all(folder: Path) -> FeatureStore:
    """Features of every depth, as slide means."""
    weights = Path(os.environ["HISTOTRANSFER_DATA"]).resolve() / "weights"
    encoders = [
        {
            "name": n,
            "weights": str(weights / f"{file}.safetensors"),
            "depths": "all",
            "input_px": 96,
        }
        for n, file in _WEIGHTS.items()
    ]
    location = folder / "s.zarr"
    data = {"grid": {"patch_px": 112}, "qc": False}
    extract(
        folder / "slides", location, data=data, model={"encoder": [*encoders, {"name": "colour"}]}
    )
    return FeatureStore.open(location)


def measure(store: FeatureStore, encoder: str, cohort: pd.DataFrame) -> pd.DataFrame:
    """One row per depth of an encoder."""
    depths = [d for e, d in store.slide(store.slide_ids()[0]).features() if e == encoder]
    depths.sort(key=lambda depth: (depth != "stem", depth == "head", depth))
    slides, patient = cohort["slide_id"].tolist(), cohort["patient_id"].to_numpy(str)
    means = mean_features(store, slides, encoder, depths)
    rows = SiteRows(cohort["scanner"].to_numpy(str), patient, cohort["label"].to_numpy(str))
    found = sites_of_layers(means, rows)
    label = np.array([int(name == "high") for name in cohort["label"]], np.int64)
    probe = linear_probe(means, label, patient)
    return pd.DataFrame(
        [
            {
                "encoder": encoder,
                "depth": depth,
                "scanner named": span(one.named),
                "RI": span(one.robust.index),
                "CRoMa": span(one.robust.margin),
                "k": one.robust.k,
                "AUROC of the label": span(
                    bootstrap_interval(
                        Predictions(
                            slides, patient, label, probe.probabilities[depth], probe.folds
                        ),
                        auroc,
                    )
                ),
            }
            for depth, one in found.items()
        ]
    )


def span(interval: Interval | None) -> str:
    """An interval in a cell of a table."""
    if interval is None:
        return "-"
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


if __name__ == "__main__":
    main()
