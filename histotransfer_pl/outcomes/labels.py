"""Several labels at once, each present, absent or missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from typing_extensions import override

from histotransfer_pl.errors import CohortError, SplitError, shorten
from histotransfer_pl.outcomes.classes import weights_of
from histotransfer_pl.outcomes.outcome import ClassWeights, Outcome, refuse_values
from histotransfer_pl.outcomes.words import clean_labels
from histotransfer_pl.records.run import TargetSpec, TaskKind

if TYPE_CHECKING:
    from torch import Tensor

    from histotransfer_pl.analysis.metrics import Metric

_VALUES = {"0": 0.0, "1": 1.0, "False": 0.0, "True": 1.0, "": np.nan}


@dataclass(frozen=True)
class Labels(Outcome):
    """Several labels at once; the mean loss is over those that a slide has."""

    task: ClassVar[TaskKind] = "multilabel"
    watched: ClassVar[str] = "macro_auroc"
    group: ClassVar[str] = "set of labels"

    @classmethod
    @override
    def truth(cls, columns: Sequence[str]) -> list[str]:
        return [f"label_{name}" for name in columns]

    @classmethod
    @override
    def read(cls, table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
        if len(columns) < 2 or len(set(columns)) < len(columns):
            raise CohortError(
                f"data.target is {', '.join(columns)}; multilabel needs two or more columns of 0 "
                "and 1 as data.target, such as [er, pr]"
            )
        found = {f"label_{name}": _read(table, name) for name in columns}
        values = pd.DataFrame(found, index=table.index)
        words = pd.Series("none", index=table.index)
        for name in columns:
            words = words.mask(values[f"label_{name}"] == 1, words + " " + name)
        known = values.notna().any(axis=1)
        return values.assign(label=words.str.removeprefix("none ").where(known, ""))

    @classmethod
    @override
    def describe(
        cls, rows: pd.DataFrame, columns: Sequence[str], positive: str | None, order: Sequence[str]
    ) -> TargetSpec:
        for name in columns:
            values = sorted(rows[f"label_{name}"].dropna().unique().tolist())
            if len(values) < 2:
                held = f"{values[0]:g} only" if values else "empty"
                raise SplitError(
                    f"column {name} is {held} for the {len(rows)} usable slides: fill it in or "
                    "leave it out of data.target"
                )
        return TargetSpec(", ".join(columns), tuple(columns), task=cls.task)

    @classmethod
    @override
    def strata(cls, rows: pd.DataFrame, n_folds: int) -> "pd.Series[str]":
        """The set of labels of a slide; sets with fewer patients than folds are taken as one."""
        patients = rows.groupby("label")["patient_id"].nunique()
        common = rows["label"].isin(patients.index[patients >= n_folds])
        rest = rows.loc[~common, "patient_id"].nunique()
        # A remainder too small for the folds joins the largest set: it balances nothing.
        other = "other sets" if rest >= n_folds else str(patients.idxmax())
        return rows["label"].where(common, other)

    @classmethod
    @override
    def lacks(cls, part: pd.DataFrame, whole: pd.DataFrame, *, learning: bool) -> str:
        names = [str(name) for name in whole if str(name).startswith("label_")]
        missing = [n.removeprefix("label_") for n in names if part[n].dropna().nunique() < 2]
        if learning:
            return f"no slides with and without {shorten(missing)}" if missing else ""
        # A part to judge by does with the labels that it has: the mean is over these.
        return (
            "no label that some of its slides have and others not"
            if len(missing) == len(names)
            else ""
        )

    @classmethod
    @override
    def unlike(cls, rows: pd.DataFrame, trained: TargetSpec) -> str:
        given = [str(n).removeprefix("label_") for n in rows if str(n).startswith("label_")]
        if set(given) == set(trained.classes):
            return ""
        return (
            f"data.target is {', '.join(given)}, but the model predicts "
            f"{', '.join(trained.classes)}: give the same columns"
        )

    @classmethod
    @override
    def balance(cls, rows: pd.DataFrame, spec: TargetSpec) -> str:
        counts = [
            (name, int((rows[f"label_{name}"] == 1).sum()), int(rows[f"label_{name}"].count()))
            for name in spec.classes
        ]
        return ", ".join(f"{name}: {present} of {known}" for name, present, known in counts)

    @override
    def of_patient(self, rows: pd.DataFrame) -> dict[str, Any]:
        """A patient has a label if any of its slides has it."""
        highest = rows[self.truth(self.spec.classes)].astype(float).max()
        names = [n for n in self.spec.classes if highest[f"label_{n}"] == 1]
        known = bool(highest.notna().any())
        values = {name: float(highest[name]) for name in self.truth(self.spec.classes)}
        return {**values, "label": (" ".join(names) or "none") if known else ""}

    @override
    def losses(self, outputs: "Tensor", targets: "Tensor", weights: "Tensor") -> "Tensor":
        from histotransfer_pl.models.losses import multilabel_loss

        return multilabel_loss(outputs, targets, weights)

    @override
    def weights(self, setting: ClassWeights, targets: NDArray[Any]) -> NDArray[np.float32]:
        """Weight of each label (L,): ``balanced`` is inverse to the slides whose label is known."""
        names = self.spec.classes
        if setting == "none" or not len(targets):
            return np.ones(len(names), np.float32)
        if setting == "balanced":
            known = np.isfinite(targets).sum(0)  # (L,)
            return np.asarray(known.mean() / known.clip(1), np.float32)
        return np.asarray(weights_of(setting, names, "labels"), np.float32)

    @override
    def scores(self, outputs: "Tensor") -> "Tensor":
        return outputs.float().sigmoid()

    @override
    def metrics(self) -> "Mapping[str, Metric]":
        from histotransfer_pl.analysis.metrics import auroc
        from histotransfer_pl.analysis.values import macro_auprc, macro_auroc, of_label

        each = {f"auroc_{name}": of_label(auroc, n) for n, name in enumerate(self.spec.classes)}
        return {"macro_auroc": macro_auroc, "macro_auprc": macro_auprc, **each}

    @property
    @override
    def titles(self) -> Mapping[str, str]:
        each = {f"auroc_{name}": f"AUROC of {name}" for name in self.spec.classes}
        return {"macro_auroc": "AUROC, mean", "macro_auprc": "AUPRC, mean", **each}

    @override
    def truth_in_words(self, row: pd.Series) -> str:
        known = {0.0: "no", 1.0: "yes"}
        return ", ".join(
            f"{name} {known.get(row[f'label_{name}'], 'not known')}" for name in self.spec.classes
        )

    @override
    def in_words(self, row: NDArray[np.float64]) -> str:
        chances = zip(self.spec.classes, row, strict=True)
        return ", ".join(f"{name} {100 * chance:.1f} %" for name, chance in chances)


def _read(table: pd.DataFrame, name: str) -> "pd.Series[float]":
    words = clean_labels(table[name])
    need = "a label of several is 1, 0 or empty"
    refuse_values(table, name, ~words.isin(list(_VALUES)), need)
    return words.map(_VALUES).astype(float)
