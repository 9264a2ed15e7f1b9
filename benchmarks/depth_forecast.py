"""Can a cheap measure tell which depth wins under attention-MIL, before anything is trained?

    python -m benchmarks.depth_forecast --store S.zarr --cohort C.csv --mil MIL.csv --output F.csv

`MIL.csv` holds the test predictions of attention heads at every depth (`benchmarks.depth_controls
--head attention`). The forecasts, per encoder and depth: AUROC of a linear probe on slide means;
AUROC of the mean score of a slide's patches by a probe that was trained on patches with the label
of their slide; the first less that of random networks at the same depth (knowledge gain); RankMe
(Garrido et al. 2023), which needs no label; and two rules without any measurement.

A forecast and the truth on the same patients share their luck. So patients are cut in two halves at
random, again and again: the forecast comes from the one half, the AUROC of attention from the
other. Printed: Spearman's correlation over all depths with its 95 % range over halves, and what is
lost when the depth with the best forecast is taken: the best AUROC of attention on the other half
less that of this depth (the best is picked there, so that attention itself loses something too).
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.depth_controls import arms_of
from histotransfer_pl.analysis.metrics import auroc
from histotransfer_pl.analysis.probe import INVERSE_PENALTIES, linear_probe
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path

Floats = NDArray[np.float64]
Depth = tuple[str, str]
"""Encoder and depth."""
_DRAWS = 1000


def rank_me(features: NDArray[np.floating]) -> float:
    """Effective rank of features (N, D): the exponential of the entropy of singular values."""
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def scores_of(store: FeatureStore, frame: pd.DataFrame, encoders: Sequence[str]) -> pd.DataFrame:
    """Held-out probe scores of every slide at every encoder and depth, and RankMe.

    Args:
        store: The store.
        frame: Slides with patient_id and number.
        encoders: Those to forecast; random networks are probed beside them.
    """
    label, patient = frame["number"].to_numpy(), frame["patient_id"].to_numpy(str)
    tables = []
    for arm in arms_of(store):
        if not arm.random and arm.encoder not in encoders:
            continue
        array = feature_path(arm.encoder, arm.depth)
        bags = [store.slide(s).read(array).astype(np.float32) for s in frame["slide_id"]]
        means = np.stack([bag.mean(0) for bag in bags])  # (S, D)
        probe = linear_probe({"": means}, label, patient)
        table = frame[["slide_id", "patient_id", "number"]].assign(
            **arm._asdict(), mean=probe.probabilities[""][:, 1], fold=probe.folds, rank_me=np.nan
        )
        if not arm.random:
            rows = np.concatenate(bags)  # (N, D)
            table["rank_me"] = rank_me(rows)
            table["patch"] = patch_scores(bags, rows, label, patient)
        tables.append(table)
        print(arm.encoder, arm.depth, flush=True)
    return pd.concat(tables, ignore_index=True)


def patch_scores(
    bags: list[NDArray[np.float32]],
    rows: NDArray[np.float32],
    label: NDArray[np.int64],
    patient: NDArray[np.str_],
) -> Floats:
    """Mean score (S,) of each slide's patches by a probe trained on patches of other patients."""
    place = np.repeat(np.arange(len(bags)), [len(bag) for bag in bags])  # (N,)
    probe = linear_probe(
        {"": rows}, label[place], patient[place], n_inner_folds=2, penalties=INVERSE_PENALTIES[:3]
    )
    return np.bincount(place, probe.probabilities[""][:, 1]) / np.bincount(place)


class Depths:
    """AUROC of every depth for any weights of patients, from held-out scores of slides."""

    def __init__(self, table: pd.DataFrame, column: str, patients: list[str]) -> None:
        """Sort the slides of each depth once.

        Args:
            table: One row per encoder, depth and slide (and seed).
            column: The score.
            patients: All patients, in the order of the weights.
        """
        number = {name: i for i, name in enumerate(patients)}
        self.own = {
            (str(encoder), str(depth)): (
                part["number"].to_numpy(np.int64),
                part[column].to_numpy(np.float64),
                part["patient_id"].map(number).to_numpy(np.int64),
                part["fold"].to_numpy(np.int64),
            )
            for (encoder, depth), part in table.groupby(["encoder", "depth"], sort=False)
        }

    def values(self, weights: Floats, names: Sequence[Depth]) -> Floats:
        """AUROC for each row of weights (B, patients): (B, depths)."""
        columns = []
        for name in names:
            label, score, owner, fold = self.own[name]
            columns.append(auroc(label, score, weights[:, owner], fold))
        return np.stack(columns, 1)


def spearman(first: Floats, second: Floats) -> Floats:
    """Rank correlation of each row (B, L) of two tables, (B,)."""
    a, b = (rankdata(one, axis=1) for one in (first, second))
    a, b = (one - one.mean(1, keepdims=True) for one in (a, b))
    found: Floats = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return found


def forecasts(
    probes: pd.DataFrame, weights: Floats, names: list[Depth], patients: list[str]
) -> Mapping[str, Floats]:
    """Every forecast for each row of weights (B, patients): (B, depths), more is better."""
    taught = probes[~probes["random"]]
    mean = Depths(taught, "mean", patients).values(weights, names)
    patch = Depths(taught, "patch", patients).values(weights, names)
    kind = dict(zip(probes["encoder"], probes["architecture"], strict=True))
    controls = Depths(probes[probes["random"]], "mean", patients)
    networks = sorted({encoder for encoder, _ in controls.own})
    floor = [
        controls.values(weights, [(n, depth) for n in networks if kind[n] == kind[encoder]]).mean(1)
        for encoder, depth in names
    ]
    rank = taught.groupby(["encoder", "depth"])["rank_me"].first()
    same = np.ones((len(weights), 1))
    order = {e: [n for n in names if n[0] == e] for e, _ in names}
    place = np.array([order[name[0]].index(name) for name in names], float)
    return {
        "probe on slide means": mean,
        "probe on patches": patch,
        "gain over random networks": mean - np.stack(floor, 1),
        "RankMe (no labels)": same * rank.loc[names].to_numpy(),
        "the deeper the better": same * place,
        "the nearer to the middle": same * -np.abs(place - place.max() / 2),
    }


def compare(probes: pd.DataFrame, mil: pd.DataFrame) -> pd.DataFrame:
    """One row per forecast."""
    patients = sorted(set(mil["patient_id"]))
    truth = Depths(mil, "score", patients)
    names = list(truth.own)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(patients), [1 / len(patients)] * len(patients), size=_DRAWS)
    half = np.zeros((_DRAWS, len(patients)))
    for row in half:
        row[rng.permutation(len(patients))[: len(patients) // 2]] = 1
    everyone = np.ones((1, len(patients)))
    whole, other = (truth.values(w, names) for w in (everyone, 1 - half))
    given_all = forecasts(probes, everyone, names, patients)
    given = forecasts(probes, half, names, patients)
    again = forecasts(probes, drawn.astype(float), names, patients)
    truth_again = truth.values(drawn.astype(float), names)
    # attention on the one half, to forecast attention on the other: nothing can do better
    given = {"attention itself": truth.values(half, names), **given}
    given_all = {"attention itself": whole, **given_all}
    rows = []
    for name, values in given.items():
        own = spearman(values, other)
        low, high = np.quantile(own, [0.025, 0.975])
        chosen = values.argmax(1)
        lost = other.max(1) - np.take_along_axis(other, chosen[:, None], 1)[:, 0]
        gained = np.take_along_axis(other, chosen[:, None], 1)[:, 0] - other.mean(1)
        pick = names[int(given_all[name][0].argmax())]
        rows.append(
            {
                "forecast": name,
                "same patients": _same(given_all[name], whole, again.get(name), truth_again),
                "other patients": f"{own.mean():.2f} [{low:.2f}, {high:.2f}]",
                "AUROC lost": f"{lost.mean():.3f}",
                "over a random depth": f"{gained.mean():+.3f}",
                "picks": " ".join(pick),
                "its AUROC": f"{whole[0, names.index(pick)]:.3f}",
            }
        )
    return pd.DataFrame(rows)


def _same(values: Floats, truth: Floats, again: Floats | None, truth_again: Floats) -> str:
    """Correlation on all patients, and its percentiles over patients drawn with replacement."""
    if again is None:
        return ""
    low, high = np.nanquantile(spearman(again, truth_again), [0.025, 0.975])
    return f"{spearman(values, truth)[0]:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--mil", type=Path, required=True, help="Predictions of attention heads.")
    parser.add_argument("--output", type=Path, required=True, help="Scores of the probes.")
    parser.add_argument("--encoders", nargs="+", required=True, help="Names in the store.")
    arguments = parser.parse_args()
    started = time.process_time()
    text = {"slide_id": str, "patient_id": str, "label": str}
    if not arguments.output.is_file():
        frame = pd.read_csv(arguments.cohort, dtype=text)
        number = {name: i for i, name in enumerate(sorted(set(frame["label"])))}
        frame = frame.assign(number=frame["label"].map(number))
        scores = scores_of(FeatureStore.open(arguments.store), frame, arguments.encoders)
        scores.to_csv(arguments.output, index=False)
    probes, mil = (pd.read_csv(path, dtype=text) for path in (arguments.output, arguments.mil))
    probes = probes[probes["random"] | probes["encoder"].isin(arguments.encoders)]
    mil = mil[mil["encoder"].isin(arguments.encoders)]
    mil["fold"] += 1000 * mil["seed"]
    print(compare(probes, mil).to_string(index=False))
    for encoder in arguments.encoders:
        print(f"\n{encoder} alone")
        print(compare(probes, mil[mil["encoder"] == encoder]).to_string(index=False))
    print(f"{time.process_time() - started:.0f} s of CPU time")


if __name__ == "__main__":
    main()
