"""The result in plain sentences, for the top of the page."""

from collections.abc import Sequence
from dataclasses import dataclass

from histotransfer_pl.report.costs import percent
from histotransfer_pl.report.tables import p_text
from histotransfer_pl.runs.contrasts import Contrast, differing
from histotransfer_pl.runs.costs import DepthCurve
from histotransfer_pl.runs.results import ArmResult, best_result, ranked, span


@dataclass(frozen=True)
class Answer:
    """A question of the study and its answer."""

    question: str
    text: str


@dataclass(frozen=True)
class Summary:
    """What one reads first.

    Attributes:
        headline: Which arm did best.
        title: What ranks the arms, such as AUROC.
        estimate: Its value with interval; empty if there is none.
        support: What the estimate rests on.
        answers: Further questions.
        caution: What the reader must keep in mind.
    """

    headline: str
    title: str
    estimate: str
    support: str
    answers: tuple[Answer, ...]
    caution: str


def summarise(
    results: Sequence[ArmResult],
    planned: Sequence[Contrast],
    ranking: Sequence[Contrast],
    curves: Sequence[DepthCurve],
) -> Summary:
    """Sentences for the arms of one task."""
    best = best_result(results)
    if best is None or best.score is None:
        reasons = next((r.problem for r in results if r.problem), "no run is finished")
        return Summary("No arm can be ranked yet", "", "", reasons, (), "")
    arm, interval = best.arm, best.score
    trainings = f"{len(arm.cells)} training{'s' if len(arm.cells) > 1 else ''}"
    support = (
        f"{arm.title} with its 95 % interval over patients: {arm.n_slides()} test slides of "
        f"{arm.n_patients()} patients, {trainings}. {arm.chance:g} is chance, 1 is perfect."
    )
    answers = [*_ranking_answer(results, ranking), *_planned_answers(planned)]
    answers += _control_answers(curves)
    answers += _sweet_answers([curve for curve in curves if best in curve.results])
    caution = (
        f"The best arm was picked by the same test slides that rate it, so its {arm.title} is "
        "somewhat optimistic; the paired tests below are corrected for the picking (Holm)."
        if len(results) > 1
        else ""
    )
    return Summary(
        _headline(best, results), arm.title, span(interval), support, tuple(answers), caution
    )


def _headline(best: ArmResult, results: Sequence[ArmResult]) -> str:
    """The best arm, or all of those that did equally well; no verdict on an arm alone."""
    if len(results) < 2:
        return best.arm.label
    able = [(r, r.score.estimate) for r in ranked(results) if r.complete and r.score is not None]
    equals = [r for r, value in able if f"{value:.3f}" == f"{able[0][1]:.3f}"]
    if len(equals) < 2:
        return f"{best.arm.label} did best"
    named = " and ".join(r.arm.label for r in equals[:2])
    more = f" and {len(equals) - 2} more" if len(equals) > 2 else ""
    return f"{named}{more} did equally well"


def _ranking_answer(results: Sequence[ArmResult], ranking: Sequence[Contrast]) -> list[Answer]:
    if len(results) < 2:
        return []
    question = "Is it better than the others beyond chance?"
    tested = [c for c in ranking if c.p_corrected is not None]
    if not tested:
        why = ranking[0].problem if ranking else "there is no other arm with a value"
        return [Answer(question, f"It cannot be told: {why}.")]
    beaten = [c for c in tested if c.beyond_chance]
    able = [r.arm for r in ranked(results) if r.complete and r.score is not None]
    second = next((c for c in tested if len(able) > 1 and c.second is able[1]), None)
    text = f"It beats {len(beaten)} of the {len(tested)} other arms beyond chance."
    others = "the only other arm" if len(tested) == 1 else f"all {len(tested)} other arms"
    if len(beaten) == len(tested):
        text = f"Yes: it beats {others} beyond chance."
    elif not beaten:
        none = f"{others} is not" if len(tested) == 1 else f"none of the {len(tested)} others is"
        text = f"No: {none} worse beyond chance."
    return [Answer(question, f"{text} {_against_second(second)}".strip())]


def _against_second(contrast: Contrast | None) -> str:
    if contrast is None or contrast.comparison is None:
        return ""
    found = "beyond chance" if contrast.beyond_chance else "within chance"
    return (
        f"The runner-up is {contrast.second.label}; the difference, "
        f"{_difference(contrast)}, is {found}."
    )


def _estimate(contrast: Contrast) -> float:
    return 0.0 if contrast.comparison is None else contrast.comparison.difference.estimate


def _difference(contrast: Contrast) -> str:
    if contrast.comparison is None:
        return "–"
    d = contrast.comparison.difference
    return (
        f"{d.estimate:+.3f} [{d.low:+.3f}, {d.high:+.3f}], "
        f"corrected p {_equals(contrast.p_corrected)}"
    )


def _equals(p: float | None) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


_ASKED = {
    "encoder": "Does the encoder or its pretraining matter?",
    "depth": "Does the depth matter?",
    "head": "Does the head matter?",
    "variant": "Does fine-tuning change the result?",
}
_NAMED = 3


def _planned_answers(planned: Sequence[Contrast]) -> list[Answer]:
    answers = []
    for factor, question in _ASKED.items():
        tested = [c for c in planned if c.question == factor and c.comparison is not None]
        if tested:
            answers.append(Answer(question, _describe_tests(tested)))
    return answers


def _describe_tests(tested: Sequence[Contrast]) -> str:
    """Which of the comparisons are beyond chance; if none is, which differs most."""
    ordered = sorted(tested, key=lambda c: -abs(_estimate(c)))
    clear = [c for c in ordered if c.beyond_chance]
    pairs = f"{len(tested)} comparison{'s' if len(tested) > 1 else ''} with all else equal"
    if not clear:
        return f"Not shown: of {pairs} none is beyond chance. The largest: {_describe(ordered[0])}."
    named = "; ".join(map(_describe, clear[:_NAMED]))
    more = f"; and {len(clear) - _NAMED} more" if len(clear) > _NAMED else ""
    share = "it is" if len(tested) == 1 else f"{len(clear)} {'is' if len(clear) == 1 else 'are'}"
    return f"Yes: of {pairs}, {share} beyond chance: {named}{more}."


def _describe(contrast: Contrast) -> str:
    first, second, shared = differing(contrast)
    estimate = _estimate(contrast)
    relation = "better than" if estimate > 0 else "worse than"
    relation = "equal to" if contrast.equal else relation
    given = f" (with {shared})" if shared else ""
    return f"{first} {relation} {second}{given}, {_difference(contrast)}"


def _control_answers(curves: Sequence[DepthCurve]) -> list[Answer]:
    answers = []
    for curve in curves:
        tried = [(d, c) for d, c in zip(curve.depths, curve.controls, strict=True) if c is not None]
        if not tried:
            continue
        better = [depth for depth, control in tried if control.better]
        others = [depth for depth, control in tried if not control.better]
        said = []
        if better:
            said.append(f"Better at {', '.join(better)}")
        if others:
            said.append(f"{'not' if said else 'Not'} shown to be better at {', '.join(others)}")
        networks = tried[0][1].networks
        answers.append(
            Answer(
                f"At which depths is {curve.label} better than random weights?",
                f"{'; '.join(said)} (mean of {networks} random network"
                f"{'s' if networks > 1 else ''} cut at the same depth; interval over patients).",
            )
        )
    return answers


def _sweet_answers(curves: Sequence[DepthCurve]) -> list[Answer]:
    answers = []
    for curve in curves:
        if curve.spot is None:
            continue
        place = curve.spot.place
        result, deepest = curve.results[place], curve.costs.iloc[-1]
        share = curve.costs.iloc[place] / deepest
        costs = [
            f"{percent(share[column])} of the {word}"
            for column, word in (("parameters", "parameters"), ("macs", "computation"))
            if share[column] == share[column]
        ]
        of_deepest = f", with {' and '.join(costs)} of the deepest cut" if costs else ""
        careful = f"; but {curve.spot.note}" if curve.spot.note else ""
        answers.append(
            Answer(
                "Where is the sweet spot?",
                f"{curve.label} cut after {result.arm.key.depth} ({span(result.score)}) is the "
                f"shallowest within one standard error of the best depth{of_deepest}{careful}.",
            )
        )
    return answers
