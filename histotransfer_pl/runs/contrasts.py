"""Whether one arm beats another beyond chance: paired tests, corrected together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from histotransfer_pl.analysis.compare import Comparison
from histotransfer_pl.analysis.multiplicity import holm
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.runs.arms import Arm, compare_arms
from histotransfer_pl.runs.results import ArmResult
from histotransfer_pl.runs.run import ArmKey
from histotransfer_pl.runs.study import Network

LEVEL = 0.05
"""Corrected p-values below this count as beyond chance."""
QUESTIONS = {
    "encoder": "Encoder",
    "depth": "Depth",
    "head": "Head",
    "variant": "Fine-tuning",
}


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two arms on the same slides.

    Attributes:
        question: Which factor differs, or empty for a pair of the ranking.
        first: The arm asked about.
        second: The arm it is held against.
        comparison: AUROC of both and the difference; None if they cannot be compared.
        p_corrected: p-value after Holm's correction over its family.
        problem: Why they cannot be compared.
        trainings: Folds and seeds that both were tested on.
    """

    question: str
    first: Arm
    second: Arm
    comparison: Comparison | None
    p_corrected: float | None = None
    problem: str = ""
    trainings: int = 0

    @property
    def beyond_chance(self) -> bool:
        """Whether the difference is."""
        return self.p_corrected is not None and self.p_corrected < LEVEL

    @property
    def equal(self) -> bool:
        """Whether the difference is 0 as the report shows it."""
        return self.comparison is not None and abs(self.comparison.difference.estimate) < 5e-4


def planned_contrasts(
    results: Sequence[ArmResult],
    order: Mapping[str, Sequence[str]],
    networks: Mapping[str, Network],
) -> list[Contrast]:
    """Pairs of arms that differ in one factor only, which is what a study asks; Holm over all.

    Random networks beside trained ones are there to be compared with. What sets two of them apart
    nobody asks, nor how a network does against random weights of another, where there are some of
    its own; the correction for it would hide what is asked.
    """
    arms = [result.arm for result in results]
    pairs = [
        (question, first, second)
        for question in QUESTIONS
        for first, second in combinations(arms, 2)
        if _differ_only_in(question, first.key, second.key, order)
    ]
    asked = _without_idle_controls(pairs, networks)
    oriented = [(q, *_orient(q, a, b, order)) for q, a, b in asked]
    return _corrected([_compare(q, a, b) for q, a, b in oriented])


def _without_idle_controls(
    pairs: Sequence[tuple[str, Arm, Arm]], networks: Mapping[str, Network]
) -> list[tuple[str, Arm, Arm]]:
    arms = {arm for _, *both in pairs for arm in both}
    taught = {_place(arm.key) for arm in arms if not _random(arm.key)}
    controls = {arm for arm in arms if _random(arm.key) and _place(arm.key) in taught}
    twins = {(networks.get(arm.key.encoder), _place(arm.key)) for arm in controls}

    def is_asked(first: Arm, second: Arm) -> bool:
        beside = {first, second} - controls
        if len(beside) != 1:  # both are trained, or both are controls
            return len(beside) == 2
        (trained,) = beside
        one, other = (networks.get(arm.key.encoder) for arm in (first, second))
        return one == other or (networks.get(trained.key.encoder), _place(trained.key)) not in twins

    return [
        (question, first, second) for question, first, second in pairs if is_asked(first, second)
    ]


def ranking_contrasts(results: Sequence[ArmResult], best: Arm) -> list[Contrast]:
    """The best arm against every other.

    Which arm is best was learnt from the same slides, so the p-values are corrected for all
    pairs that might have come out as best and other, not only for the pairs shown.
    """
    arms = [r.arm for r in results if r.score is not None]
    pairs = [(b, a) if b is best else (a, b) for a, b in combinations(arms, 2)]
    contrasts = _corrected([_compare("", first, second) for first, second in pairs])
    return [contrast for contrast in contrasts if contrast.first is best]


def _differ_only_in(
    question: str, a: ArmKey, b: ArmKey, order: Mapping[str, Sequence[str]]
) -> bool:
    """Whether two arms differ in what the question is about, and in nothing else."""
    if question == "encoder":
        same_depth = a.depth == b.depth or (_deepest(a, order) and _deepest(b, order))
        rest = (a.head, a.variant, a.settings) == (b.head, b.variant, b.settings)
        encoders = [(key.encoder, key.weights, key.weights_kind) for key in (a, b)]
        return encoders[0] != encoders[1] and same_depth and rest
    others = [name for name in ArmKey._fields if name != question]
    if any(getattr(a, name) != getattr(b, name) for name in others):
        return False
    if question == "depth":
        return _deepest(a, order) or _deepest(b, order)
    if question == "variant":
        return (
            a.variant.frozen or b.variant.frozen or _against_control(a, b) or _against_control(b, a)
        )
    return True


def _against_control(a: ArmKey, b: ArmKey) -> bool:
    """Top-k patches against random or bottom ones, both read in the same way."""
    return a.variant.rule == "topk" and a.variant.own_head == b.variant.own_head


def _orient(question: str, a: Arm, b: Arm, order: Mapping[str, Sequence[str]]) -> tuple[Arm, Arm]:
    """The reference comes second: the deepest cut, the frozen encoder, random weights."""
    turned = (
        (question == "depth" and _deepest(a.key, order))
        or (question == "variant" and (a.key.variant.frozen or _against_control(b.key, a.key)))
        or (question == "encoder" and _random(a.key) and not _random(b.key))
    )
    return (b, a) if turned else (a, b)


def _deepest(key: ArmKey, order: Mapping[str, Sequence[str]]) -> bool:
    depths = order.get(key.encoder, ())
    return bool(depths) and depths[-1] == key.depth


def _place(key: ArmKey) -> tuple[str, str, object]:
    return key.depth, key.head, key.variant


def _random(key: ArmKey) -> bool:
    return key.weights_kind == "random"


def _compare(question: str, first: Arm, second: Arm) -> Contrast:
    cells = set(first.cells) & set(second.cells)
    try:
        found = compare_arms(first, second)
        return Contrast(question, first, second, found, trainings=len(cells))
    except AnalysisError as error:
        return Contrast(question, first, second, None, problem=str(error), trainings=len(cells))


def _corrected(contrasts: Sequence[Contrast]) -> list[Contrast]:
    p_values = {
        str(i): c.comparison.p_value for i, c in enumerate(contrasts) if c.comparison is not None
    }
    adjusted = holm(p_values)
    return [
        replace(contrast, p_corrected=adjusted.get(str(place)))
        for place, contrast in enumerate(contrasts)
    ]


def differing(contrast: Contrast) -> tuple[str, str, str]:
    """What sets the two apart, for each of them, and what they share."""
    a, b = contrast.first.words, contrast.second.words
    apart = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    shared = " · ".join(word for name, word in a.items() if name not in apart)
    if not apart:
        return contrast.first.key.weights, contrast.second.key.weights, shared
    first, second = (" · ".join(w.get(name, "–") for name in apart) for w in (a, b))
    return first, second, shared
