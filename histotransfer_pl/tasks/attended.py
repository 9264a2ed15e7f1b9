"""The patches of a bag that the network looks at most."""

import torch

from histotransfer_pl.tasks.slide_model import SlidePrediction

Attended = dict[int, list[tuple[int, float]]]
"""For each bag, by its place in the datamodule's list: rows and their attention, most first."""


def most_attended(prediction: SlidePrediction, k: int) -> Attended:
    """The k patches with the most attention in each bag; ties in the order of the rows.

    Args:
        prediction: What the network said of whole bags.
        k: How many; all of a bag that has fewer.
    """
    found: Attended = {}
    bags = torch.split(prediction["attention"].float().cpu(), prediction["lengths"].tolist())
    for index, attention in zip(prediction["indices"].tolist(), bags, strict=True):
        order = torch.argsort(attention, descending=True, stable=True)[:k]  # (K,)
        found[index] = [(int(row), float(attention[row])) for row in order]
    return found
