"""Multiple-instance heads: from the patch features of a slide to its class.

All heads share a trunk (fully connected layers on every patch), a pooling of its patches to one
vector per slide, a linear slide classifier and, if wanted, a linear patch classifier. They differ
in the pooling alone, so that a comparison of heads compares poolings.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.models.pooling import (
    bag_sizes,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_spread,
    segment_sum,
    segment_weighted_sum,
)
from histotransfer_pl.records.run import ClassSpec


class Pooled(NamedTuple):
    """What a pooling makes of the patches of S slides."""

    embedding: Tensor  # (S, E)
    attention: Tensor  # (sumN,), sums to one per slide
    attention_logits: Tensor | None = None  # (sumN,), before the softmax


class MILOutput(NamedTuple):
    """What a head says about S packed slides."""

    logits: Tensor  # (S, C)
    attention_logits: Tensor | None  # (sumN,), None for a pooling that has no scores
    attention: Tensor  # (sumN,) float32, sums to one per slide
    patch_logits: Tensor | None  # (sumN, C), None without a patch classifier
    embedding: Tensor  # (S, E)


class MILHead(nn.Module, ABC):
    """Base of the heads; a subclass says how the patches of a slide become one vector.

    Args:
        in_features: Width D of the patch features.
        num_classes: Outputs C per slide: one per class or label, or a single number.
        hidden: Widths of the trunk's layers; empty gives a linear head on the features themselves.
        dropout: Share of each trunk layer's outputs to drop in training.
        patch_head: Whether to classify every patch too (the loss weight beta needs it).

    Raises:
        ConfigError: A width below one, no output, or a dropout outside 0 to 1.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note the settings: a checkpoint and a model file say how to build the head again."""
        head = super().__new__(cls)
        # not that of the class, which is (*args, **kwargs) where the constructor is inherited
        given = inspect.signature(cls.__init__).bind_partial(head, *args, **kwargs).arguments
        sizes = ("self", "in_features", "num_classes")
        settings = {k: _as_json(v) for k, v in given.items() if k not in sizes}
        object.__setattr__(head, "spec", ClassSpec(f"{cls.__module__}.{cls.__name__}", settings))
        return head

    spec: ClassSpec
    """Class and settings, without the sizes that follow from the data."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden: Sequence[int] = (256, 64),
        *,
        dropout: float = 0.0,
        patch_head: bool = True,
    ) -> None:
        super().__init__()
        _check_settings(in_features, num_classes, hidden, dropout)
        self.in_features = in_features
        self.num_classes = num_classes
        widths = [in_features, *hidden]
        self.embedding_features = widths[-1]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.trunk = nn.Sequential(*layers)
        self.slide_classifier = nn.Linear(self.embedding_features, num_classes)
        self.patch_classifier = (
            nn.Linear(self.embedding_features, num_classes) if patch_head else None
        )

    @abstractmethod
    def pool(self, patches: Tensor, lengths: Tensor) -> Pooled:
        """Reduce the trunk's output (sumN, E) to one vector per slide."""

    @override
    def forward(self, features: Tensor, lengths: Tensor) -> MILOutput:
        """Classify S slides.

        Args:
            features: (sumN, D) patch features, slide after slide, any floating type.
            lengths: (S,) number of patches of each slide.

        Raises:
            ConfigError: An empty bag, lengths that do not fit the rows, or features of another
                width than the head's.
        """
        bag_sizes(features, lengths)
        if features.ndim != 2 or features.shape[1] != self.in_features:
            raise ConfigError(
                f"features of shape {tuple(features.shape)}, but the head takes "
                f"(patches, {self.in_features}): build it for the encoder and depth in use"
            )
        if not torch.is_autocast_enabled(features.device.type):
            features = features.to(self.slide_classifier.weight.dtype)  # (sumN, D)
        patches = self.trunk(features)  # (sumN, E)
        pooled = self.pool(patches, lengths)
        embedding = pooled.embedding  # (S, E), float32 from the sums
        if not torch.is_autocast_enabled(features.device.type):
            embedding = embedding.to(self.slide_classifier.weight.dtype)
        return MILOutput(
            logits=self.slide_classifier(embedding),  # (S, C)
            attention_logits=pooled.attention_logits,
            attention=pooled.attention,
            patch_logits=None if self.patch_classifier is None else self.patch_classifier(patches),
            embedding=pooled.embedding,
        )


class AttentionHead(MILHead):
    """Attention pooling (Ilse et al. 2018); the defaults are the head of Sharma et al. 2021.

    Args:
        in_features: Width D of the patch features.
        num_classes: Outputs C per slide.
        hidden: Widths of the trunk's layers; empty gives attention on the features themselves.
        attention_dim: Width of the attention network's only hidden layer.
        gated: Whether a sigmoid gate multiplies the tanh of that layer.
        dropout: Share of each trunk layer's outputs to drop in training.
        patch_head: Whether to classify every patch too.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden: Sequence[int] = (256, 64),
        *,
        attention_dim: int = 32,
        gated: bool = False,
        dropout: float = 0.0,
        patch_head: bool = True,
    ) -> None:
        super().__init__(in_features, num_classes, hidden, dropout=dropout, patch_head=patch_head)
        if attention_dim < 1:
            raise ConfigError(f"attention_dim is {attention_dim}: give a width of at least 1")
        self.attention_hidden = nn.Linear(self.embedding_features, attention_dim)
        self.attention_gate = nn.Linear(self.embedding_features, attention_dim) if gated else None
        self.attention_score = nn.Linear(attention_dim, 1)

    @override
    def pool(self, patches: Tensor, lengths: Tensor) -> Pooled:
        """Weigh the patches by a softmax over the slide of their learned scores."""
        scored = self.attention_hidden(patches).tanh()  # (sumN, attention_dim)
        if self.attention_gate is not None:
            scored = scored * self.attention_gate(patches).sigmoid()  # (sumN, attention_dim)
        logits = self.attention_score(scored).squeeze(1)  # (sumN,)
        attention = segment_softmax(logits, lengths)  # (sumN,)
        return Pooled(segment_weighted_sum(patches, attention, lengths), attention, logits)


class GatedAttentionHead(AttentionHead):
    """Attention pooling with a sigmoid gate (Ilse et al. 2018), on the same trunk."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden: Sequence[int] = (256, 64),
        *,
        attention_dim: int = 32,
        dropout: float = 0.0,
        patch_head: bool = True,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            hidden,
            attention_dim=attention_dim,
            gated=True,
            dropout=dropout,
            patch_head=patch_head,
        )


class MeanPoolHead(MILHead):
    """Mean of the patches: the baseline that published attention models often fail to beat.

    Each patch counts 1 / N; there are no attention scores.
    """

    @override
    def pool(self, patches: Tensor, lengths: Tensor) -> Pooled:
        """Weigh all patches of a slide alike."""
        embedding = segment_mean(patches, lengths)  # (S, E)
        counts = lengths.to(embedding)  # (S,)
        return Pooled(embedding, segment_spread(1 / counts, lengths))


class CovariatesOnlyHead(MILHead):
    """Nothing of the patches: the baseline that a head with clinical covariates must beat.

    What is left are the covariates and a constant; attention is uniform.
    """

    @override
    def pool(self, patches: Tensor, lengths: Tensor) -> Pooled:
        """The same vector for every slide."""
        mean = segment_mean(patches, lengths)  # (S, E)
        return Pooled(mean * 0, segment_spread(1 / lengths.to(mean), lengths))


class MaxPoolHead(MILHead):
    """Largest value of each embedding feature over the patches.

    The attention of a patch is the share of the E features whose maximum it holds; patches that
    tie share a feature, so that the order of the patches does not matter.
    """

    @override
    def pool(self, patches: Tensor, lengths: Tensor) -> Pooled:
        """Keep the largest value of each feature and credit the patches that hold it."""
        embedding = segment_max(patches, lengths)  # (S, E)
        with torch.no_grad():
            holds = (patches == segment_spread(embedding, lengths)).float()  # (sumN, E)
            holders = segment_spread(segment_sum(holds, lengths), lengths)  # (sumN, E)
            attention = (holds / holders).mean(1)  # (sumN,)
        return Pooled(embedding, attention)


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_settings(
    in_features: int, num_classes: int, hidden: Sequence[int], dropout: float
) -> None:
    if min(in_features, *hidden, 1) < 1:
        raise ConfigError(
            f"in_features {in_features}, hidden {list(hidden)}: every width must be at least 1"
        )
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}: a head gives at least one number")
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout is {dropout}: give a share from 0 to below 1")
