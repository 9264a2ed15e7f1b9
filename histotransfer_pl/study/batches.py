"""Steps in groups that an engine runs in one process each.

Steps that follow each other alone (fit, its test, its attention) are a *chain*. Chains that need
nothing of each other form a *stage*, whose chains are shared out to at most so many batches. So a
study of hundreds of steps is a few processes, and whoever queues them knows what waits for what.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from histotransfer_pl.data.shards import share_out
from histotransfer_pl.runs.steps import Plan, Step
from histotransfer_pl.study.resources import Resources, resources_of


@dataclass
class Chain:
    """Steps that run one after the other."""

    steps: list[Step]
    stage: int
    resources: Resources

    @property
    def group(self) -> str:
        """Name of the chains that are alike: of one stage, that begin with one kind of step."""
        return f"{self.steps[0].kind}_{self.stage}"


@dataclass(frozen=True)
class Batch:
    """Steps of one process."""

    name: str
    steps: tuple[str, ...]
    resources: Resources
    after: tuple[int, ...]


def make_chains(plan: Plan, left: Sequence[Step], settings: Mapping[str, Any]) -> dict[str, Chain]:
    """The chain of each step."""
    followers = Counter((need, step.kind) for step in plan for need in step.needs)
    chains: dict[str, Chain] = {}
    for step in left:
        asked = resources_of(settings, step.kind)
        needs = [need for need in step.needs if need in chains]
        before = {id(chains[need]): chains[need] for need in needs}
        chain = next(iter(before.values()), None)
        alone = all(followers[need, step.kind] == 1 for need in needs)
        # A kind that asks for nothing of its own takes what its chain has.
        fits = chain is not None and (step.kind not in settings or chain.resources == asked)
        if chain is not None and len(before) == 1 and alone and fits:
            chain.steps.append(step)
        else:
            stage = 1 + max((other.stage for other in before.values()), default=-1)
            chain = Chain([step], stage, asked)
        chains[step.name] = chain
    return chains


def make_batches(
    plan: Plan,
    left: Sequence[Step],
    settings: Mapping[str, Any],
    tasks: int,
    seconds: Mapping[str, float],
) -> list[Batch]:
    """The batches of what is left, each behind those that it needs."""
    stages: dict[tuple[int, str], list[Chain]] = {}
    chains = {id(chain): chain for chain in make_chains(plan, left, settings).values()}
    for chain in chains.values():
        stages.setdefault((chain.stage, repr(chain.resources)), []).append(chain)
    place: dict[str, int] = {}
    batches: list[Batch] = []
    for _, alike in sorted(stages.items(), key=lambda item: item[0]):
        sizes = [
            round(1000 * sum(seconds.get(step.kind, 1.0) for step in chain.steps))
            for chain in alike
        ]
        for part in share_out(alike, sizes, min(tasks, len(alike))):
            steps = [step for chain in part for step in chain.steps]
            needed = {place[need] for step in steps for need in step.needs if need in place}
            names = tuple(step.name for step in steps)
            kind = part[0].steps[0].kind
            batches.append(
                Batch(f"{plan.name}-{kind}", names, part[0].resources, tuple(sorted(needed)))
            )
            place |= dict.fromkeys(names, len(batches) - 1)
    return batches
