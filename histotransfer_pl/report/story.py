"""What was done, in sentences for a reader who knows neither method nor jargon."""

from collections.abc import Sequence

from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.report.gain import GainCurve
from histotransfer_pl.report.similarity import Similarity
from histotransfer_pl.report.summary import Answer
from histotransfer_pl.runs.arms import Arm, encoder_label
from histotransfer_pl.runs.study import Study
from histotransfer_pl.store.feature_store import FeatureStore

_UNTAUGHT = (
    " An encoder with random weights was taught nothing: it is the floor. It keeps the BatchNorm "
    "statistics it was made with (mean 0, variance 1)."
)
_CONTROLS = {"random": "random patches", "bottom": "the patches with the least attention"}

_PLAIN_TUNING = (
    "In some runs the encoder was tuned too: on selected patches of each slide, encoder and head "
    "were trained further, together. Such a run is tested with the head it was tuned with; after "
    "“tuned on” stand the rule and the number of patches."
)


def answer_questions(
    study: Study,
    arms: Sequence[Arm],
    store: FeatureStore | None,
    *,
    similarity: bool = False,
    gain: bool = False,
) -> tuple[str, ...]:
    """The steps of the study in order, one paragraph each; empty without runs."""
    if not arms:
        return ()
    told = [*_patches(store), _features(arms), _folds(arms), *_tuning(study, arms)]
    if similarity:
        told.append(
            "Apart from any label, the networks were compared with each other: CKA says how alike "
            "two of them see the same patches, block by block."
        )
    if gain:
        told.append(
            "Knowledge gain asks what pretraining is worth: at every block a simple linear "
            "classifier reads the pretrained network and the same network with random weights."
        )
    return tuple(told)


def insights(similarities: Sequence[Similarity], gains: Sequence[GainCurve]) -> tuple[Answer, ...]:
    """What CKA and knowledge gain found, for the top of the page."""
    return (*map(_moved, filter(_same_blocks, similarities)), *map(_gained, gains))


def _patches(store: FeatureStore | None) -> list[str]:
    if store is None or store.grid is None:
        return []
    grid = GridSettings.from_json(store.grid)
    overlap = f"overlapping by {grid.overlap_px} px" if grid.overlap_px else "side by side"
    return [
        f"Each slide was cut into patches, {overlap}: squares of {grid.patch_px} × "
        f"{grid.patch_px} pixels at {grid.mpp:g} µm per pixel, that is "
        f"{grid.patch_px * grid.mpp:g} µm. A patch counts if at least "
        f"{100 * grid.min_tissue:.0f} % of it is tissue."
    ]


def _features(arms: Sequence[Arm]) -> str:
    encoders = list(dict.fromkeys(encoder_label(a.key) for a in arms if a.key.variant.frozen))
    depths = list(dict.fromkeys(a.key.depth for a in arms))
    heads = list(dict.fromkeys(a.key.head for a in arms))
    cut = (
        f"cut at {len(depths)} depths ({_listed(depths)})"
        if len(depths) > 1
        else f"up to {depths[0]}"
    )
    return (
        f"An encoder, {cut}, turned every patch into a list of numbers, its features. "
        f"Encoders: {_listed(encoders) or 'tuned ones only'}. A small network, the head "
        f"({_listed(heads)}), then learnt to predict the target of a slide from all of its patches."
        + (_UNTAUGHT if any(arm.key.weights_kind == "random" for arm in arms) else "")
    )


def _folds(arms: Sequence[Arm]) -> str:
    cells = {cell for arm in arms for cell in arm.cells}
    folds, seeds = {(c.split, c.fold) for c in cells}, {c.seed for c in cells}
    repeated = f", each with {len(seeds)} random seeds" if len(seeds) > 1 else ""
    times = f"each of {len(folds)} test folds" if len(folds) > 1 else "one test fold"
    return (
        f"The patients were divided into folds. Every head was trained once for {times}"
        f"{repeated}: other patients chose when to stop, and the patients "
        "of the test fold were seen only to test it. All numbers below are of such test slides."
    )


def _tuning(study: Study, arms: Sequence[Arm]) -> list[str]:
    variants = [arm.key.variant for arm in arms if not arm.key.variant.frozen]
    if any(variant.plain for variant in variants):
        return [_PLAIN_TUNING]
    tuned = list(dict.fromkeys(variant.rule for variant in variants))
    if not tuned:
        return []
    found = {step.option("top_k") or step.option("k") for step in study.plan.of_kind("select")}
    k = next(iter(found)) if len(found) == 1 and None not in found else "k"
    controls = [_CONTROLS[rule] for rule in tuned if rule in _CONTROLS]
    first = (
        f"The encoder was also tuned: the {k} patches of each slide with the most attention "
        "(top-k) were used to train encoder and head further, together."
        if "topk" in tuned
        else f"The encoder was also tuned on {k} patches of each slide."
    )
    control = (
        f" As a control the same was done with {_listed(controls)}: only if top-k does better "
        "than that, the attention chose well."
        if controls and "topk" in tuned
        else ""
    )
    return [
        f"{first}{control} A tuned encoder is tested with the head it was tuned with (“its own "
        "head”) and with a new head trained on its features; only on the fold it was tuned for, "
        "because it has seen the other patients."
    ]


def _same_blocks(one: Similarity) -> bool:
    # the feature maps of a pair say much the same as its pooled features
    return len(one.diagonal) > 1 and one.facts.get("space") != "flattened"


def _moved(one: Similarity) -> Answer:
    first, second = one.sides
    values = one.diagonal
    shallow, deep = next(iter(values)), list(values)[-1]
    least = min(values, key=values.__getitem__)
    lowest = f"; it is lowest at {least} ({values[least]:.2f})" if least != deep else ""
    return Answer(
        f"How alike do {first} and {second} see?",
        f"CKA of the same block is {values[shallow]:.2f} at {shallow} and {values[deep]:.2f} at "
        f"{deep}{lowest}. 1 is alike, 0 unrelated.",
    )


def _gained(curve: GainCurve) -> Answer:
    table = curve.table
    best = table.iloc[int(table["gain"].argmax())]
    sweet = str(curve.facts.get("sweet_spot", ""))
    spot = f" The sweet spot of the pretrained network is {sweet}." if sweet else ""
    other = (
        f", or {best['gain_initial']:+.2f} over random networks with initial BatchNorm statistics"
        if "gain_initial" in table
        else ""
    )
    first = (
        f"; at the first block, {table['layer'].iloc[0]}, it is {table['gain'].iloc[0]:+.2f}"
        if best["layer"] != table["layer"].iloc[0]
        else ""
    )
    return Answer(
        f"What does the pretraining of {curve.facts.get('encoder', curve.name)} add?",
        f"Most at {best['layer']}: {curve.score} {best['pretrained']:.2f} against "
        f"{best['random']:.2f} with random weights, a gain of {best['gain']:+.2f}"
        f"{other}{first}.{spot}",
    )


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
