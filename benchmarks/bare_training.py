"""Training of the attention head in a bare loop, for programs that train hundreds of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from histotransfer_pl.models.heads import AttentionHead, MILHead

Bags = tuple[list[Tensor], Tensor]
"""Features (N, D) of each bag, and their labels (S,)."""
Packed = tuple[Tensor, Tensor, Tensor]
"""Features (sum N, D), lengths (S,) and labels (S,)."""


@dataclass(frozen=True)
class Setting:
    """Settings of one training."""

    optimizer: str
    lr: float
    weight_decay: float
    batch_size: int
    standardize: bool
    epochs: int
    patience: int | None = None  # epochs without a smaller validation loss after which it ends


SETTINGS = {
    "paper": Setting("Adam", 1e-3, 0.0, 1, False, 20),
    "paper, standardised": Setting("Adam", 1e-3, 0.0, 1, True, 20),
    "5e-4, 8 bags": Setting("AdamW", 5e-4, 0.01, 8, True, 30, 6),  # configs/idc_heads.yaml
    "2e-4, 8 bags": Setting("AdamW", 2e-4, 0.01, 8, True, 50, 10),
    "1e-4, 8 bags": Setting("AdamW", 1e-4, 0.01, 8, True, 50, 10),
    "5e-4, 8 bags, raw": Setting("AdamW", 5e-4, 0.01, 8, False, 50, 10),
    "2e-4, 8 bags, raw": Setting("AdamW", 2e-4, 0.01, 8, False, 50, 10),
    "1e-4, 8 bags, raw": Setting("AdamW", 1e-4, 0.01, 8, False, 50, 10),
}


def pack(bags: Bags, order: list[int] | None = None) -> Packed:
    """Some bags, or all, as one batch."""
    chosen = list(range(len(bags[1]))) if order is None else order
    features = [bags[0][i] for i in chosen]
    return torch.cat(features), torch.tensor([len(f) for f in features]), bags[1][chosen]


def standardized(parts: Mapping[str, Bags]) -> dict[str, Bags]:
    """Features with mean 0 and deviation 1 over the training patches."""
    rows = torch.cat(parts["train"][0]).double()  # (N, D)
    mean, deviation = rows.mean(0), rows.std(0, correction=0)
    # A feature that never changes carries nothing; dividing it by 1 keeps it at 0.
    deviation[deviation < 1e-6] = 1
    return {
        name: ([((bag - mean) / deviation).float() for bag in bags], labels)
        for name, (bags, labels) in parts.items()
    }


def epochs(
    parts: Mapping[str, Bags], setting: Setting, seed: int, hidden: list[int]
) -> Iterator[tuple[MILHead, float]]:
    """The head after each epoch, and its validation loss."""
    torch.manual_seed(seed)
    bags = parts["train"]
    head = AttentionHead(bags[0][0].shape[1], 2, hidden, patch_head=False)
    make = getattr(torch.optim, setting.optimizer)
    optimizer = make(head.parameters(), lr=setting.lr, weight_decay=setting.weight_decay)
    validation = pack(parts["validation"])
    losses: list[float] = []
    for epoch in range(setting.epochs):
        head.train()
        order = torch.randperm(len(bags[1])).tolist()
        for start in range(0, len(order), setting.batch_size):
            features, lengths, labels = pack(bags, order[start : start + setting.batch_size])
            optimizer.zero_grad()
            F.cross_entropy(head(features, lengths).logits, labels).backward()
            optimizer.step()
        head.eval()
        losses.append(measure(head, validation)["loss"])
        yield head, losses[-1]
        if setting.patience is not None and epoch - losses.index(min(losses)) >= setting.patience:
            return


def measure(head: MILHead, batch: Packed) -> dict[str, float]:
    """Loss, AUROC and accuracy of a part."""
    with torch.inference_mode():
        logits = head(batch[0], batch[1]).logits  # (S, C)
    labels = batch[2]
    return {
        "loss": float(F.cross_entropy(logits, labels)),
        "auroc": float(roc_auc_score(labels, logits.softmax(-1)[:, 1])),
        "accuracy": float((logits.argmax(-1) == labels).float().mean()),
    }
