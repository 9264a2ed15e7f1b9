"""Bags whose patches arrive in several batches, and the patches of them that are most attended."""

from typing import NamedTuple

import torch
from torch import Tensor

from histotransfer_pl.data.bag_pieces import BagPieces, require_readable
from histotransfer_pl.outcomes.outcome import Outcome
from histotransfer_pl.tasks.slide_model import SlidePrediction

Attended = dict[int, list[tuple[int, float]]]
"""For each bag, by its place in the datamodule's list: rows and their attention, most first."""


class WholeBags(NamedTuple):
    """Bags that are complete.

    Attributes:
        features: (sum n, D) features of the patches that could be read.
        rows: (sum n,) place of each in its bag.
        counts: (S,) readable patches of each bag.
        lengths: (S,) all patches of each bag.
        targets: (S,) or (S, K) targets.
        indices: (S,) places in the datamodule's list.
    """

    features: Tensor
    rows: Tensor
    counts: Tensor
    lengths: Tensor
    targets: Tensor
    indices: Tensor


class OpenBags:
    """Keeps the features of the one bag that is not complete yet."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor]] = []

    def clear(self) -> None:
        """Forget what an interrupted evaluation left."""
        self._parts = []

    def add(self, batch: BagPieces, features: Tensor) -> WholeBags | None:
        """Add features (B, D) of a batch; the bags that it completes, or None.

        Raises:
            SlideError: If nothing of a bag could be read.
        """
        sizes = batch.sizes.tolist()
        bags: list[tuple[Tensor, Tensor]] = []
        pieces = zip(
            torch.split(features, sizes),
            torch.split(batch.rows, sizes),
            batch.ends.tolist(),
            strict=True,
        )
        for own, rows, end in pieces:
            self._parts.append((own, rows))
            if end:
                together = [torch.cat(part) for part in zip(*self._parts, strict=True)]
                bags.append((together[0], together[1]))
                self._parts = []
        if not bags:
            return None
        ends = batch.ends
        for (own, _), index in zip(bags, batch.indices[ends].tolist(), strict=True):
            require_readable(len(own), f"bag {index}")
        return WholeBags(
            features=torch.cat([own for own, _ in bags]),  # (sum n, D)
            rows=torch.cat([rows for _, rows in bags]),  # (sum n,)
            counts=torch.tensor([len(own) for own, _ in bags], device=features.device),  # (S,)
            lengths=batch.lengths[ends],
            targets=batch.targets[ends],
            indices=batch.indices[ends],
        )


def fill_unreadable(prediction: SlidePrediction, bags: WholeBags) -> SlidePrediction:
    """One row for every patch of a bag: unreadable ones get no weight and the lowest logits."""
    if torch.equal(bags.counts, bags.lengths):
        return prediction
    counts, lengths = bags.counts.tolist(), bags.lengths.tolist()
    filled = SlidePrediction(prediction)
    filled["lengths"] = bags.lengths
    for name in ("attention", "attention_logits", "patch_logits"):
        if name not in prediction:
            continue
        parts = []
        own = zip(
            torch.split(prediction[name], counts),
            torch.split(bags.rows, counts),
            lengths,
            strict=True,
        )
        for values, rows, length in own:
            lowest = torch.zeros_like(values[0]) if name == "attention" else values.amin(0)
            whole = lowest.expand(length, *values.shape[1:]).clone()
            whole[rows] = values
            parts.append(whole)
        filled[name] = torch.cat(parts)
    return filled


def no_prediction(outcome: Outcome, device: torch.device) -> SlidePrediction:
    """The prediction of a batch that completes no bag."""
    none = torch.empty(0, device=device)
    whole = torch.empty(0, dtype=torch.long, device=device)
    outputs = torch.empty(0, outcome.n_outputs, device=device)
    return SlidePrediction(
        indices=whole,
        outputs=outputs,
        scores=outcome.scores(outputs),
        lengths=whole,
        attention=none,
        attention_logits=none,
    )


def most_attended(prediction: SlidePrediction, k: int) -> Attended:
    """The k patches with the most attention in each bag; ties in the order of the rows."""
    found: Attended = {}
    bags = torch.split(prediction["attention"].float().cpu(), prediction["lengths"].tolist())
    for index, attention in zip(prediction["indices"].tolist(), bags, strict=True):
        order = torch.argsort(attention, descending=True, stable=True)[:k]  # (K,)
        found[index] = [(int(row), float(attention[row])) for row in order]
    return found
