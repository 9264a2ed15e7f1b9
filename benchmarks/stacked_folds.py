"""Heads of several folds in one stacked step: `python -m benchmarks.stacked_folds`.

What a study could gain by training the folds of an arm as one job; docs/decisions.md says why it
does not.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from benchmarks.program import run
from benchmarks.result import Result, compare
from histotransfer_pl.models.heads import AttentionHead
from histotransfer_pl.tasks.heap import keep_freed_memory


def measure(
    models: int = 5,
    patches: tuple[int, ...] = (20, 1_000, 8_000),
    width: int = 512,
    rounds: int = 12,
    device: str = "cpu",
) -> list[Result]:
    """Forward, backward and Adam of all models on a bag in memory, by those one after the other.

    Args:
        models: Models that train on the bag.
        patches: Sizes of bags.
        width: Features of a patch.
        rounds: Rounds.
        device: cpu or cuda.
    """
    keep_freed_memory()  # for both ways
    return [
        compare(
            f"one step of {models} stacked heads, {count} patches, vs one after the other",
            3.0 if device == "cuda" else 1.0,
            *training(models, torch.randn(count, width, device=device)),
            rounds,
            speedup=True,
            device=device,
            amount=models,
            unit="steps",
        )
        for count in patches
    ]


def training(models: int, bag: Tensor) -> tuple[Callable[[int], Tensor], Callable[[int], Tensor]]:
    """A step of all models on a bag (N, D), stacked and one by one; each gives the losses (M,)."""
    heads = [AttentionHead(bag.shape[1], 2, patch_head=False).to(bag.device) for _ in range(models)]
    lengths, label = torch.tensor([len(bag)]), torch.ones(1, dtype=torch.long, device=bag.device)

    def loss(params: Mapping[str, Tensor]) -> Tensor:
        logits = functional_call(heads[0], dict(params), (bag, lengths)).logits
        return F.cross_entropy(logits, label)

    stacked, _ = stack_module_state(list(heads))  # each (M, ...), a copy
    each = vmap(loss)
    optimizer = torch.optim.Adam(stacked.values(), lr=1e-3)
    own = [dict(head.named_parameters()) for head in heads]
    optimizers = [torch.optim.Adam(params.values(), lr=1e-3) for params in own]

    def at_once(_: int) -> Tensor:
        return _step(optimizer, each(stacked))

    def one_by_one(_: int) -> Tensor:
        pairs = zip(optimizers, own, strict=True)
        return torch.stack([_step(each, loss(params)) for each, params in pairs])

    return at_once, one_by_one


def _step(optimizer: torch.optim.Optimizer, losses: Tensor) -> Tensor:
    optimizer.zero_grad()
    losses.sum().backward()
    optimizer.step()
    if losses.is_cuda:
        torch.cuda.synchronize()
    return losses.detach()


if __name__ == "__main__":
    run("stacked_folds", measure, {"patches": [20], "rounds": 2})
