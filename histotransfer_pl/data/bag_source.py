"""From table and store to bags with targets and parts, to train, to test or to predict."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from histotransfer_pl.data.bag_table import EXTERNAL, bag_table, new_bag_table
from histotransfer_pl.data.join import Join, join_cohort, join_unlabelled
from histotransfer_pl.data.refusals import (
    refuse_other_task,
    refuse_seen_patients,
    refuse_trained_patients,
)
from histotransfer_pl.data.sites import confounding, with_sites
from histotransfer_pl.data.splits import Split, split_cohort
from histotransfer_pl.errors import CohortError, ConfigError, SplitError
from histotransfer_pl.outcomes.kinds import TargetColumns, outcome_of
from histotransfer_pl.records.run import Bag, RunRecord, SplitSpec, TargetSpec
from histotransfer_pl.store.joined import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FoundBags:
    """What a stage reads."""

    join: Join
    target: TargetSpec
    split: Split
    bags: pd.DataFrame


@dataclass(frozen=True)
class BagSource:
    """A table and a store, and what is asked of them.

    Attributes:
        cohort: The table; None for all slides of the store.
        target: Columns and kind of the target.
        split: How patients are shared out.
        bag: What a bag holds.
        strict: Whether labelled slides without features are refused.
        site: Column with the site of each slide, or ``tcga`` for that in TCGA names.
        covariates: Further columns that the head reads.
    """

    cohort: Path | None
    target: TargetColumns
    split: SplitSpec
    bag: Bag = "slide"
    strict: bool = True
    site: str | None = None
    covariates: tuple[str, ...] = field(default=())

    def to_predict(self, store: Store, arrays: list[str], trained: RunRecord | None) -> FoundBags:
        """Bags of every slide; labels and patients are kept where the table knows them."""
        if trained is not None:
            refuse_other_task(self.target, trained.target)
        join = join_unlabelled(self.cohort, store, arrays, self.target, self.covariates)
        target = self.target.describe(join.labelled) if trained is None else trained.target
        own = trained is not None and not self._is_elsewhere(store, arrays, trained)
        part = "test" if own else EXTERNAL
        bags = new_bag_table(join.slides, trained, self.bag, outcome_of(target), part)
        return FoundBags(join, target, Split([], [], []), bags)

    def to_test(self, store: Store, arrays: list[str], trained: RunRecord) -> FoundBags:
        """Bags of the test part of the model's own cohort, or of all labelled slides elsewhere."""
        refuse_other_task(self.target, trained.target)
        if not self._is_elsewhere(store, arrays, trained):
            return self.to_train(store, arrays)
        join = self._labelled(store, arrays, [])
        labelled = join.labelled
        if unlike := self.target.kind.unlike(labelled, trained.target):
            raise SplitError(unlike)
        refuse_trained_patients(trained, set(), set(labelled["patient_id"]))
        split = Split([], [], labelled["slide_id"].tolist())
        refuse_seen_patients(store, arrays[0], labelled, split)
        rows = labelled.reset_index(drop=True)
        bags = new_bag_table(rows, None, self.bag, outcome_of(trained.target), part="test")
        return FoundBags(join, trained.target, split, bags)

    def to_train(self, store: Store, arrays: list[str]) -> FoundBags:
        """Bags of the parts of a cohort that is split."""
        join = self._labelled(store, arrays, [c for c in (self.split.column,) if c is not None])
        labelled = join.labelled
        target = self.target.describe(labelled)
        split = split_cohort(labelled, self.split, self.target.kind)
        bags = bag_table(join.slides, split, self.bag, outcome_of(target))
        refuse_seen_patients(store, arrays[0], labelled, split)
        return FoundBags(join, target, split, bags)

    def warn_of_confounding(self, labelled: pd.DataFrame) -> None:
        """Say where the label can be read off the site."""
        if "site" not in labelled:
            return
        try:
            own = self.target.kind.against_sites(labelled)
            found = confounding(labelled.assign(label=own))
        except CohortError as error:
            _log.warning("%s", error)
            return
        if found.warns:
            _log.warning("%s", found)

    def _labelled(self, store: Store, arrays: list[str], columns: list[str]) -> Join:
        if self.cohort is None:
            raise ConfigError("data.cohort must be given: only predict can do without labels")
        if self.split.by == "site" and self.site is None:
            raise ConfigError("data.split_by is site: give the column of the site with data.site")
        if self.site is not None and self.site != "tcga":
            columns = [*columns, self.site]
        asked = list(dict.fromkeys([*columns, *self.covariates]))
        join = join_cohort(self.cohort, store, arrays, self.target, asked, strict=self.strict)
        return replace(join, slides=with_sites(join.slides, self.site))

    def _is_elsewhere(self, store: Store, arrays: list[str], trained: RunRecord) -> bool:
        """Whether the model comes from another cohort: not all its patients are in this table."""
        table = join_unlabelled(self.cohort, store, arrays, self.target).slides
        own = {*trained.train_patients, *trained.validation_patients}
        return not own <= set(table["patient_id"]) or not own
