"""From the attention of a stage-1 run to the patches of each slide."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.data.cohort import read_cohort
from histotransfer_pl.data.gallery import draw_gallery
from histotransfer_pl.data.patch_cache import PatchCache
from histotransfer_pl.data.selection import (
    CONTROLS,
    SAME_FOR_ALL,
    SCORED,
    Rule,
    Selection,
    highest,
    random_rows,
    spread_rows,
    write_selection,
)
from histotransfer_pl.errors import ConfigError, StoreError, StoreMismatchError
from histotransfer_pl.records.attributes import encoder_spec
from histotransfer_pl.records.done import Done
from histotransfer_pl.runs.own_config import read_run_config
from histotransfer_pl.store.attention import ATTENTION_COLUMNS, PATCH_COLUMN, attention_of
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import encode_key, feature_path, selection_path
from histotransfer_pl.store.slide import StoredSlide
from histotransfer_pl.tasks.transfer import Stage1, read_stage1

_POOL = 4


def select_patches(
    run_dir: Path,
    top_k: int = 64,
    rule: Rule = "attention",
    name: str | None = None,
    store: Path | None = None,
    pool: int | None = None,
    seed: int = 0,
    patch_class: str | None = None,
    gallery: Path | None = None,
    slides: Path | None = None,
    overwrite: bool = False,
) -> Done:
    """Choose k patches of every slide, and save which, with how they were chosen, in the store.

    Args:
        run_dir: Folder of a stage-1 run, after ``fit`` and ``predict``.
        top_k: Patches of a slide (k); a slide with fewer gives all it has.
        rule: ``attention`` or ``patch_logit`` (highest first), or a control with the same k:
            ``random``, ``bottom`` (least attention) or ``uniform_grid`` (spread over the tissue).
        name: Name of the selection; by default ``<run>-<rule>-<k>``.
        store: The store; by default that of the run.
        pool: Patches per slide to keep in order of preference, at least k: those behind the k-th
            replace unreadable ones, and are candidates when the selection is refreshed. By
            default 4 times k.
        seed: Seed of ``random``.
        patch_class: Class whose patch logit counts; by default the second of two classes.
        gallery: Folder for a picture of the selected patches of each slide.
        slides: Folder of the slides, if they were moved since ``extract``; for the gallery.
        overwrite: Replace a selection of this name that was made otherwise.

    Raises:
        ConfigError: Numbers out of their range, or a rule that this run has no scores for.
        StoreMismatchError: Other features than the run's, or another selection of this name.
    """
    pool = _POOL * top_k if pool is None else pool
    if top_k < 1 or pool < top_k:
        raise ConfigError(
            f"k is {top_k} and pool {pool}: expected k from 1, and a pool of at least k"
        )
    stage1 = read_stage1(run_dir)
    source, own = _store_and_slides(run_dir, store)
    features = stage1.record.features
    array = feature_path(features.store_name, features.depths[0])
    stored = list(_slides(source, array, stage1, own))
    lines = _check_k(stored, top_k, rule)
    chooser = _Chooser(stage1, run_dir, rule, seed, patch_class)
    name = f"{run_dir.name}-{rule}-{top_k}" if name is None else name
    facts = {**chooser.facts(), "k": top_k, "pool": pool}
    scores = {slide.slide_id: chooser.scores(slide) for slide in stored}
    chooser.check(scores)
    chosen = {
        slide.slide_id: Selection(chooser.rank(slide, scores[slide.slide_id], pool), top_k, facts)
        for slide in stored
    }
    with source.joining():
        for slide in stored:
            if not overwrite:
                _refuse_other(slide, name, facts)
            write_selection(slide, name, chosen[slide.slide_id], overwrite=True)
    if gallery is not None:
        _draw(_pixels(source, stored, slides), gallery, chosen, scores)
        lines.append(f"wrote {gallery}")
    counts = [len(selection.rows) for selection in chosen.values()]
    short = sum(count < top_k for count in counts)
    lines.append(
        f"selection {name} in {source.location}: {sum(counts)} of "
        f"{sum(slide.n_patches for slide in stored)} patches of {len(stored)} slides by rule "
        f"{rule}; {short} slides have fewer than {top_k} and are kept whole"
    )
    metrics = {"selection": name, "slides": len(stored), "patches": sum(counts)}
    return Done(lines, [str(source.location), *([] if gallery is None else [gallery])], metrics)


@dataclass(frozen=True)
class _Chooser:
    """Ranks the patches of slides by one rule."""

    stage1: Stage1
    run: Path
    rule: Rule
    seed: int
    patch_class: str | None

    def facts(self) -> dict[str, Any]:
        """What is recorded with the selection."""
        features = self.stage1.record.features
        return {
            "run": str(self.run),
            "checkpoint": str(self.stage1.path),
            "checkpoint_sha256": self.stage1.sha256,
            "rule": self.rule,
            "seed": self.seed,
            "patch_class": self._patch_class() if self.rule == "patch_logit" else None,
            "encoder": features.store_name,
            "depth": features.depths[0],
            "weights_sha256": features.encoder.weights.sha256,
        }

    def scores(self, slide: StoredSlide) -> NDArray[np.float32] | None:
        """What the rule ranks by, (N,), highest first; None for rules that need no score."""
        if self.rule not in SCORED:
            return None
        values, columns = self._attention(slide)
        logits = values[:, ATTENTION_COLUMNS.index("logit")]  # (N,)
        if self.rule == "patch_logit":
            wanted = PATCH_COLUMN.format(self._patch_class())
            if wanted not in columns:
                raise ConfigError(
                    f"run {self.run} has no patch logits, as its patch classifier was not "
                    "trained: fit stage 1 with model.beta above 0 and predict again, or take "
                    "--rule attention"
                )
            own = columns.index(wanted)
            others = [i for i in range(len(ATTENTION_COLUMNS), len(columns)) if i != own]
            margin: NDArray[np.float32] = values[:, own] - values[:, others].max(1)  # (N,)
            return margin
        return -logits if self.rule == "bottom" else logits

    def check(self, scores: dict[str, NDArray[np.float32] | None]) -> None:
        """Refuse to rank by attention that does not differ between patches."""
        known = [values for values in scores.values() if values is not None]
        if known and all(np.ptp(values) == 0 for values in known):
            raise ConfigError(
                f"run {self.run} gives all patches of a slide the same attention (a head that "
                "pools the mean?): take a run with an attention head, or --rule random"
            )

    def rank(
        self, slide: StoredSlide, scores: NDArray[np.float32] | None, pool: int
    ) -> NDArray[np.int32]:
        """The ``pool`` best rows of a slide, best first."""
        if scores is not None:
            return highest(scores, pool)
        if self.rule == "random":
            return random_rows(slide.n_patches, pool, self.seed, slide.slide_id)
        return spread_rows(slide.coords(), pool)

    def _patch_class(self) -> str:
        classes = self.stage1.record.target.classes
        if self.patch_class is None and len(classes) > 2:
            raise ConfigError(f"say whose patch logit counts with --patch_class: {classes}")
        wanted = classes[1] if self.patch_class is None else self.patch_class
        if wanted not in classes:
            raise ConfigError(f"no class {wanted!r} for --patch_class; the run has {classes}")
        return wanted

    def _attention(self, slide: StoredSlide) -> tuple[NDArray[np.float32], list[str]]:
        """The attention that this very checkpoint gave the patches (N, ...), and its columns."""
        try:
            array = attention_of(slide, self.stage1.sha256)
        except StoreError as error:
            raise self._no_attention(slide) from error
        return slide.read(array), list(slide.info(array).attributes["columns"])

    def _no_attention(self, slide: StoredSlide) -> ConfigError:
        arrays = [name for name in slide.arrays() if name.startswith("attention/")]
        facts = [slide.info(name).attributes for name in arrays]
        older = any(str(self.run) in (one.get("run"), one.get("run_dir")) for one in facts)
        found = "only that of an older checkpoint" if older else "none"
        return ConfigError(
            f"slide {slide.slide_id!r} has no attention of {self.stage1.path} in the store "
            f"({found}): run predict --run_dir {self.run} first"
        )


def _store_and_slides(run: Path, store: Path | None) -> tuple[FeatureStore, frozenset[str] | None]:
    """The store of a run, and the slides of its table: others may have come into the store since.

    All slides where only a checkpoint is given and nobody knows the table.
    """
    if not run.is_dir():
        if store is None:
            raise ConfigError(f"{run} is a checkpoint, which knows no store: give --store")
        return FeatureStore.open(store), None
    data = read_run_config(run)["data"]["init_args"]
    table = data.get("cohort")
    own = None if table is None else frozenset(read_cohort(Path(table))["slide_id"])
    return FeatureStore.open(data["store"] if store is None else store), own


def _slides(
    store: FeatureStore, array: str, stage1: Stage1, own: frozenset[str] | None
) -> Iterator[StoredSlide]:
    """Slides of the run with patches that have its features."""
    found = False
    for slide_id in store.slide_ids():
        if own is not None and slide_id not in own:
            continue
        slide = store.slide(slide_id)
        if slide.n_patches and slide.has(array):
            if not found:
                _require_same_features(slide.info(array).attributes, stage1)
            found = True
            yield slide
    if not found:
        raise StoreMismatchError(
            f"{store.location} has no {array}, on which {stage1.path} was trained: give the "
            "store of that run with --store"
        )


def _require_same_features(attributes: Mapping[str, Any], stage1: Stage1) -> None:
    """The features of the store must be those that the run was trained on."""
    trained = stage1.record.features.encoder
    present = encoder_spec(attributes, trained.name)
    if wrong := trained.weights.differs(present.weights, ignore=("kind", "origin", "base")):
        raise StoreMismatchError(
            f"the features in the store are not those that {stage1.path} was trained on (run, not "
            f"store): {'; '.join(wrong)}"
        )


def _refuse_other(slide: StoredSlide, name: str, facts: dict[str, Any]) -> None:
    """Refuse to replace a selection that was made otherwise."""
    try:
        slide.matches(selection_path(name), {key: facts[key] for key in SAME_FOR_ALL})
    except StoreMismatchError as error:
        raise StoreMismatchError(f"{error}; or replace it with --overwrite true") from error


def _check_k(slides: list[StoredSlide], k: int, rule: Rule) -> list[str]:
    """A control on slides that are all kept whole would be the very selection it is to test."""
    largest = max(slide.n_patches for slide in slides)
    if k >= largest:
        message = f"k is {k}, but the largest slide has {largest} patches, so every rule keeps all"
        if rule in CONTROLS:
            raise ConfigError(f"{message}: lower k, or there is nothing to control")
        return [f"{message} patches of all slides"]
    return []


def _pixels(store: FeatureStore, stored: list[StoredSlide], moved: Path | None) -> PatchCache:
    """Where the pictures of a gallery come from."""
    places = {} if moved is None else {s.slide_id: moved / _file_name(s) for s in stored}
    return PatchCache(store, limit_bytes=0, slides=places)


def _file_name(slide: StoredSlide) -> str:
    return Path(str(slide.fact("path"))).name


def _draw(
    cache: PatchCache,
    folder: Path,
    chosen: dict[str, Selection],
    scores: dict[str, NDArray[np.float32] | None],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for slide_id, selection in chosen.items():
        cache.check_slide(slide_id)
        rows = selection.rows.tolist()
        own = scores[slide_id]
        captions = [
            f"{rank}: row {row}" + ("" if own is None else f", {own[row]:.2f}")
            for rank, row in enumerate(rows, 1)
        ]
        page = draw_gallery([cache.read(slide_id, row) for row in rows], captions)
        page.save(folder / f"{encode_key(slide_id)}.png")
    cache.close()
