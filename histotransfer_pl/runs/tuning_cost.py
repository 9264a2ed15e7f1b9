"""What the fine-tuning runs of a comparison took, as their folders say it."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from histotransfer_pl.runs.arms import Arm

FILE = "tuning_cost.json"
NUMBERS = ("trained_parameters", "parameters", "peak_mib", "seconds_per_epoch")


def tuning_costs(arms: Sequence[Arm]) -> pd.DataFrame:
    """One row per arm whose encoder was tuned: means over its trainings.

    Columns: `arm`, those of `NUMBERS`, `trained_share`, `device`.
    """
    rows = []
    for arm in arms:
        found: list[dict[str, Any]] = []
        for run in arm.runs:
            try:
                facts = json.loads((run.folder / FILE).read_text(encoding="utf-8"))
                found.append({name: float(facts[name]) for name in NUMBERS} | facts)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # not tuned, by an earlier release, or damaged: nothing to tell
        if not found:
            continue
        means = pd.DataFrame(found)[list(NUMBERS)].mean()
        share = means["trained_parameters"] / means["parameters"]
        devices = ", ".join(dict.fromkeys(str(facts.get("device", "")) for facts in found))
        rows.append({"arm": arm.label, **means, "trained_share": share, "device": devices})
    return pd.DataFrame(rows)
