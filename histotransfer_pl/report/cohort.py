"""The cohort behind the runs: what was joined, and which patients were in which part."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from histotransfer_pl.data.join import Join, join_cohort
from histotransfer_pl.data.sites import with_sites
from histotransfer_pl.data.splits import Split, split_cohort
from histotransfer_pl.errors import CohortError, ConfigError, StoreError
from histotransfer_pl.outcomes.kinds import TargetColumns, target_of_settings
from histotransfer_pl.records.run import SplitBy, split_spec
from histotransfer_pl.report.table import Table
from histotransfer_pl.runs.arms import Arm
from histotransfer_pl.runs.run import Run
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path

_PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class CohortPage:
    """What the page says of the cohort.

    Attributes:
        path: The cohort table.
        join: Reasons and numbers, one line a reason.
        splits: Slides and patients of each part of each fold; None if they cannot be told.
        problems: What could not be told, and what is wrong.
    """

    path: str
    join: tuple[tuple[str, str], ...]
    splits: Table | None
    problems: tuple[str, ...]


def describe_cohort(
    arms: Sequence[Arm], store: FeatureStore, cohort: Path, name: str
) -> CohortPage:
    """Join the cohort with the store again and repeat the splits of the runs."""
    # Features of tuned encoders exist for the slides of one fold only.
    frozen = [arm for arm in arms if arm.key.variant.frozen] or list(arms)
    run = frozen[0].runs[0]
    data, features = run.data, run.record.features
    try:
        target = target_of_settings(data)
        join = join_cohort(
            cohort,
            store,
            [feature_path(features.store_name, depth) for depth in features.depths],
            target,
            _columns(data),
            strict=False,
        )
    except (CohortError, StoreError, KeyError) as error:
        return CohortPage(str(cohort), (), None, (f"The cohort cannot be shown: {error}",))
    problems: list[str] = []
    rows = []
    for one in {(r.cell.split, r.cell.fold): r for arm in frozen for r in arm.runs}.values():
        try:
            split = _split(join, one.data)
        except (CohortError, ConfigError, KeyError) as error:
            problems.append(f"The split of fold {one.cell.fold} cannot be repeated: {error}")
            continue
        problems += _differences(one, split, join)
        rows += [_part_row(one, part, split.part(part), join, target) for part in _PARTS]
    table = None
    if rows:
        frame = pd.DataFrame(rows)
        table = Table(name, "Slides and patients of each part", frame, _shown(frame))
    return CohortPage(str(cohort), tuple(_join_lines(join, target)), table, tuple(problems))


def _columns(data: Any) -> list[str]:
    """Further columns that the split needs."""
    site = data.get("site")
    named = (data.get("fold_column"), None if site == "tcga" else site)
    return [str(column) for column in named if column]


def _split(join: Join, data: Any) -> Split:
    column = data.get("fold_column")
    by: SplitBy = data.get("split_by") or "patient"
    n_folds, seed = data.get("n_folds"), data.get("split_seed")
    spec = split_spec(int(data["fold"]), n_folds, seed, column, by)
    labelled = with_sites(join.labelled, data.get("site"))
    return split_cohort(labelled, spec, target_of_settings(data).kind)


def _differences(run: Run, split: Split, join: Join) -> list[str]:
    """Whether a run tested the slides that its settings say."""
    tested = set(run.table["slide_id"])
    known = join.labelled.set_index("slide_id")["patient_id"]
    planned = set(split.test)
    if run.task.bag == "patient":
        planned = set(known.loc[split.test])
    if tested == planned:
        return []
    return [
        f"{run.name} was tested on {len(tested)} slides, but its fold has {len(planned)} test "
        f"slides today ({len(tested - planned)} of its own are not among them): the cohort or the "
        "store changed after the run"
    ]


def _part_row(
    run: Run, part: str, slide_ids: Sequence[str], join: Join, target: TargetColumns
) -> dict[str, object]:
    rows = join.labelled[join.labelled["slide_id"].isin(slide_ids)]
    counts: dict[str, object] = {f"n_{c}": int((rows["label"] == c).sum()) for c in join.classes}
    if target.truth != ["label"]:  # no classes to count
        counts = {"target": target.kind.balance(rows, target.describe(join.labelled))}
    return {
        "split": run.cell.split,
        "fold": run.cell.fold,
        "part": part,
        "slides": len(rows),
        "patients": rows["patient_id"].nunique(),
        **counts,
    }


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    page = frame.rename(columns=lambda c: c.removeprefix("n_") if c.startswith("n_") else c)
    page.columns = [
        f"Class {c}" if f"n_{c}" in frame.columns else str(c).capitalize() for c in page.columns
    ]
    if page["Split"].nunique() == 1:
        page = page.drop(columns="Split")
    return page.astype(str)


def _join_lines(join: Join, target: TargetColumns) -> list[tuple[str, str]]:
    used = join.labelled
    balance = target.kind.balance(used, target.describe(used))
    patients = used["patient_id"].nunique()
    lines = [
        ("Slides in the table", str(join.in_table)),
        ("Used: labelled, with features", f"{len(used)} of {patients} patients"),
        ("Slides of each class" if target.truth == ["label"] else "Target", balance),
    ]
    for reason, names in (
        ("Without label", join.without_label),
        ("Without features", join.without_features),
        ("Without tissue", join.without_tissue),
        ("In the store but not in the table", join.not_in_table),
    ):
        lines.append((reason, str(len(names)) + (f" ({', '.join(names[:5])})" if names else "")))
    return lines
