"""A selection drawn anew with the current encoder and head."""

from typing import Any, Protocol

import numpy as np
import torch
from lightning import Trainer
from numpy.typing import NDArray
from torch import Tensor

from histotransfer_pl.data.selection import highest
from histotransfer_pl.data.topk import TopKPatchDataModule
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.models.heads import MILOutput
from histotransfer_pl.tasks.metrics import from_all_ranks

REFRESHABLE = ("attention", "bottom")


class Encodes(Protocol):
    """A task with an encoder and a head."""

    chunk_patches: int

    def encode(self, patches: Tensor) -> Tensor:
        """Features (B, D) of patches (B, P, P, 3)."""
        ...

    def classify(self, features: Tensor, lengths: Tensor) -> MILOutput:
        """What the head says of features (N, D), as they are stored."""
        ...


@torch.no_grad()
def rank_candidates(
    task: Encodes, data: TopKPatchDataModule, slide_id: str, device: torch.device
) -> NDArray[np.int32]:
    """Readable candidates of a slide (M,), by attention now; ties in the order of the rows."""
    rows: list[Tensor] = []
    features: list[Tensor] = []
    for own, patches in data.candidate_chunks(slide_id, task.chunk_patches):
        rows.append(own)
        features.append(task.encode(patches.to(device)))
    if not rows:
        return data.candidates[slide_id]
    whole = torch.cat(features)  # (M, D)
    output = task.classify(whole, torch.tensor([len(whole)]))
    if output.attention_logits is None:
        raise ConfigError(
            "the head has no attention to rank by: set model.refresh_every_n_epochs to 0"
        )
    scores = output.attention_logits.float().cpu().numpy()  # (M,)
    best = highest(-scores if data.selection_facts["rule"] == "bottom" else scores, len(scores))
    return torch.cat(rows).numpy()[best].astype(np.int32)


def rank_all(task: Any, data: TopKPatchDataModule, trainer: Trainer) -> None:
    """Rank the candidates of every training slide; ranks share the work."""
    slides = sorted(data.candidates)[trainer.global_rank :: trainer.world_size]
    with trainer.precision_plugin.forward_context():
        mine = {name: rank_candidates(task, data, name, task.device) for name in slides}
    for share in from_all_ranks(trainer, mine):
        data.candidates.update(share)
