"""Every depth beside its controls: pretrained, random networks at the same depth, colour alone.

Attention heads in bare loops over stored features, on the splits and with the defaults of `fit`;
or, much faster, logistic regression on the mean of each bag, its penalty chosen on the validation
part:

    python -m benchmarks.depth_controls --store S.zarr --cohort C.csv --output arms.csv --head mean

Prints per encoder and depth the AUROC of the test folds with its 95 % BCa interval over patients,
the mean of the random networks of the same architecture, and the difference with its interval.
A depth whose interval holds 0 is not better than random there.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor

from benchmarks.bare_training import SETTINGS, Bags, epochs, pack, standardized
from histotransfer_pl.analysis.bootstrap import Interval, bootstrap_interval
from histotransfer_pl.analysis.control import gap_to_controls
from histotransfer_pl.analysis.metrics import auroc, evaluate
from histotransfer_pl.analysis.predictions import Floats, Predictions
from histotransfer_pl.data.splits import Split, split_by_seed
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path
from histotransfer_pl.tasks.heap import keep_freed_memory

SETTING = "5e-4, 8 bags, raw"  # the defaults of `fit`
_RESAMPLES = 1000
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse penalties of the logistic regression."""


class Arm(NamedTuple):
    """Features to train on."""

    encoder: str  # name in the store
    architecture: str
    depth: str
    random: bool


def arms_of(store: FeatureStore) -> list[Arm]:
    """What the store holds, by what its provenance says and not by its names."""
    slide = store.slide(store.slide_ids()[0])
    found = []
    for encoder, depth in slide.features():
        facts = slide.info(feature_path(encoder, depth)).attributes
        weights = str(facts["weights_sha256"])
        found.append(Arm(encoder, str(facts["architecture"]), depth, weights.startswith("random:")))
    # shallow to deep: blocks and layers are numbered, the stem and the head are at the ends
    return sorted(found, key=lambda arm: (arm.encoder, arm.depth != "stem", arm.depth == "head"))


def attend(parts: dict[str, Bags], seed: int, hidden: list[int]) -> Floats:
    """Score of each test bag by the epoch with the least validation loss."""
    test = pack(parts["test"])
    least, scores = float("inf"), np.zeros(0)
    for head, loss in epochs(parts, SETTINGS[SETTING], seed, hidden):
        if loss < least:
            least = loss
            with torch.inference_mode():
                scores = head(test[0], test[1]).logits.softmax(-1)[:, 1].double().numpy()
    return scores


def regress(parts: dict[str, Bags]) -> Floats:
    """Score of each test bag by the penalty with the least validation loss."""
    means = {
        name: torch.stack([bag.mean(0) for bag in bags]).double().numpy()
        for name, (bags, _) in parts.items()
    }
    labels = {name: part[1].numpy() for name, part in parts.items()}
    deviation = means["train"].std(0).clip(1e-6)  # of means, not of patches
    tried = []
    for strength in _STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=500)
        model.fit(means["train"] / deviation, labels["train"])
        chosen = model.predict_proba(means["validation"] / deviation)
        scores = model.decision_function(means["test"] / deviation)
        tried.append((log_loss(labels["validation"], chosen), scores))
    best: Floats = min(tried, key=lambda pair: pair[0])[1]
    return best


def predict(
    bags: dict[str, Tensor], frame: pd.DataFrame, split: Split, seed: int, head: str
) -> Floats:
    """Score of each test slide."""
    label = frame.set_index("slide_id")["number"]
    parts: dict[str, Bags] = {}
    for name in ("train", "validation", "test"):
        slides = split.part(name)
        parts[name] = ([bags[s] for s in slides], torch.tensor(label[slides].to_numpy()))
    return regress(standardized(parts)) if head == "mean" else attend(parts, seed, [256, 64])


def run(arguments: argparse.Namespace) -> pd.DataFrame:
    """One row per arm, seed and slide."""
    frame = pd.read_csv(arguments.cohort, dtype={"slide_id": str, "patient_id": str, "label": str})
    column, _, value = arguments.where.partition("=")
    frame = frame[frame[column].astype(str) == value] if column else frame
    frame = frame.assign(
        number=frame["label"].map({n: i for i, n in enumerate(sorted(set(frame["label"])))})
    )
    store = FeatureStore.open(arguments.store)
    splits = [split_by_seed(frame, fold, arguments.folds, 0) for fold in range(arguments.folds)]
    tables: list[pd.DataFrame] = []
    for arm in arms_of(store):
        if arguments.encoders and arm.encoder not in arguments.encoders:
            continue
        if arguments.depths and arm.depth not in arguments.depths:
            continue
        array = feature_path(arm.encoder, arm.depth)
        bags = {s: torch.from_numpy(store.slide(s).read(array)).float() for s in frame["slide_id"]}
        for seed in range(arguments.seeds):
            for fold, split in enumerate(splits):
                scores = predict(bags, frame, split, seed, arguments.head)
                own = frame.set_index("slide_id").loc[split.test, ["patient_id", "number"]]
                facts = {**arm._asdict(), "seed": seed, "fold": fold, "score": scores}
                tables.append(own.reset_index().assign(**facts))
        print(f"{arm.encoder} {arm.depth}", flush=True)
    return pd.concat(tables, ignore_index=True)


def predictions_of(table: pd.DataFrame) -> Predictions:
    """Test predictions of one encoder at one depth; each training is a fold of its own."""
    own = table.sort_values(["seed", "slide_id"])
    seeds = own["seed"].astype(str)
    return Predictions(
        (own["slide_id"] + "#" + seeds).tolist(),
        own["patient_id"].tolist(),
        own["number"].tolist(),
        own["score"].tolist(),
        (own["fold"] + 1000 * own["seed"]).tolist(),
    )


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """One row per encoder that is not random, and depth."""
    rows = []
    for (encoder, depth), frame in table[~table["random"]].groupby(
        ["encoder", "depth"], sort=False
    ):
        own = predictions_of(frame)
        value = bootstrap_interval(own, auroc, n_resamples=_RESAMPLES)
        row = {"encoder": encoder, "depth": depth, "AUROC": _span(value)}
        controls = [
            predictions_of(one)
            for _, one in table[
                table["random"]
                & (table["architecture"] == frame["architecture"].iloc[0])
                & (table["depth"] == depth)
            ].groupby("encoder")
        ]
        if controls:
            values = [float(evaluate(auroc, one)[0]) for one in controls]
            row["random"] = f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
            gap = gap_to_controls(own, controls, n_resamples=_RESAMPLES)
            row["minus random"] = _span(gap, "+")
            row["better"] = "yes" if gap.low > 0 else "worse" if gap.high < 0 else "not shown"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _span(interval: Interval, sign: str = "") -> str:
    values = interval.estimate, interval.low, interval.high
    estimate, low, high = (f"{value:{sign}.3f}" for value in values)
    return f"{estimate} [{low}, {high}]"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--where", default="", help="Rows of the cohort, such as split=train.")
    parser.add_argument("--encoders", nargs="*", default=[], help="All of the store when empty.")
    parser.add_argument("--depths", nargs="*", default=[], help="All of the store when empty.")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--head", default="attention", choices=["attention", "mean"])
    parser.add_argument("--output", type=Path, required=True, help="Predictions of all arms.")
    parser.add_argument("--only", default="", help="Summarize these slides, such as split=val.")
    arguments = parser.parse_args()
    keep_freed_memory()
    started = time.process_time()
    if not arguments.output.is_file():
        run(arguments).to_csv(arguments.output, index=False)
    table = pd.read_csv(arguments.output, dtype={"slide_id": str, "patient_id": str})
    if arguments.only:
        column, _, value = arguments.only.partition("=")
        cohort = pd.read_csv(arguments.cohort, dtype={"slide_id": str})
        table = table[table["slide_id"].isin(cohort["slide_id"][cohort[column] == value])]
    print(summarize(table).to_string(index=False))
    print(f"{time.process_time() - started:.0f} s of CPU time")


if __name__ == "__main__":
    main()
