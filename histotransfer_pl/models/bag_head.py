"""A bag network of another library, or of one's own, as a head."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.models.heads import MILHead, MILOutput, Pooled
from histotransfer_pl.models.pooling import bag_sizes, segment_softmax

_SIZES = ("in_features", "num_classes")


class BagHead(MILHead):
    """Any ``nn.Module`` that classifies one bag (1, N, D), such as ``torchmil.models.ABMIL``.

    The module returns logits: (1, C), or (1,) or (1, 1) for two classes (then those of the
    positive class against 0), alone or followed by an attention value per patch (1, N).

    Args:
        in_features: Width D of the patch features.
        num_classes: Classes C of the target.
        module: Dotted path of the class.
        arguments: Arguments of its constructor; the words ``in_features`` and ``num_classes``
            stand for the numbers, also within lists.
        attention: Name of the argument of its ``forward`` that asks for attention, if it has one;
            the attention is then taken as logits, over which the softmax of a slide is made.

    Raises:
        ConfigError: No such class, or arguments that it does not take.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        module: str,
        arguments: Mapping[str, Any] | None = None,
        attention: str | None = None,
    ) -> None:
        super().__init__(in_features, num_classes, (), patch_head=False)
        del self.trunk, self.slide_classifier
        self.name = module
        self.attention = attention
        sizes = dict(zip(_SIZES, (in_features, num_classes), strict=True))
        filled = {key: _filled(value, sizes) for key, value in (arguments or {}).items()}
        self.module = _make(module, filled)
        self.embedding_features = 0
        with torch.no_grad():
            self._classify(torch.zeros(3, in_features))

    @override
    def pool(self, patches: Tensor, lengths: Tensor) -> Pooled:
        raise ConfigError(f"{self.name} pools by itself")  # pragma: no cover - never called

    @override
    def forward(self, features: Tensor, lengths: Tensor) -> MILOutput:
        """Classify S slides, bag by bag: features (sumN, D), lengths (S,)."""
        sizes = bag_sizes(features, lengths)
        both = [self._classify(bag) for bag in features.float().split(sizes)]
        logits = torch.cat([own for own, _ in both])  # (S, C)
        scores = torch.cat([attention for _, attention in both]).float()  # (sumN,)
        return MILOutput(
            logits=logits,
            attention_logits=None if self.attention is None else scores,
            attention=segment_softmax(scores, lengths),  # (sumN,)
            patch_logits=None,
            embedding=logits,
        )

    def _classify(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (1, C) and attention logits (N,) of a bag (N, D)."""
        asked = {} if self.attention is None else {self.attention: True}
        answer = self.module(bag.unsqueeze(0), **asked)
        logits, *further = answer if isinstance(answer, tuple) else (answer,)
        if logits.numel() == 1 and self.num_classes == 2:
            logits = torch.stack([torch.zeros_like(logits), logits], dim=-1)
        if logits.numel() != self.num_classes:
            raise ConfigError(
                f"{self.name} gave logits of shape {tuple(logits.shape)} for one bag, expected "
                f"(1, {self.num_classes}): give its arguments the number of classes"
            )
        scores = further[0].reshape(-1) if further else torch.zeros(len(bag), device=bag.device)
        return logits.reshape(1, -1), scores  # (1, C), (N,)


def _make(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    place, _, cls = name.rpartition(".")
    try:
        made = getattr(importlib.import_module(place), cls)(**arguments)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"no class {name!r} for model.head.module ({error}): is its package installed?"
        ) from error
    except TypeError as error:
        raise ConfigError(f"{name} does not take {dict(arguments)}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{name} is no torch.nn.Module, but a {type(made).__name__}")
    return made


def _filled(value: Any, sizes: Mapping[str, int]) -> Any:
    if isinstance(value, list | tuple):
        return [_filled(item, sizes) for item in value]
    return sizes.get(value, value) if isinstance(value, str) else value
