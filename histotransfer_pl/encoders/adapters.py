"""Low-rank adapters (Hu et al. 2022, LoRA): small trained matrices beside frozen layers.

A layer y = W x becomes y = W x + (alpha / rank) B A x, with A (rank, in) random and B (out, rank)
zero at the start, so that training begins at the published network. `peft` does it, also for
convolutions.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from histotransfer_pl.errors import EncoderError, WeightsError

_MARK = "lora_"
_ATTENTION = ("attn.qkv", "attn.proj")


@dataclass(frozen=True)
class LoraSettings:
    """How adapters are made.

    Attributes:
        rank: Rank of the product that is added to a layer's weights.
        alpha: What is added is scaled by alpha / rank.
        dropout: Dropout before the adapter, in training.
        layers: Names of the layers to adapt, or their ends, such as `attn.qkv` or `fc1`; when null
            the attention of a transformer, and every ungrouped convolution of other networks.
        merge: Save the whole encoder with its adapters merged into it, instead of the adapters
            alone.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    layers: list[str] | None = None
    merge: bool = False


def add_adapters(
    network: nn.Module, settings: LoraSettings, allowed: Collection[str] | None = None
) -> dict[str, Any]:
    """Put adapters beside layers of a network, in place, and freeze everything else.

    Args:
        network: The (cut) network.
        settings: How.
        allowed: Parameters of the blocks that may be adapted; all when None.

    Returns:
        Rank, alpha and the names of the adapted layers, as plain JSON types.

    Raises:
        EncoderError: If a layer does not exist, none is left, or `peft` is not installed.
    """
    layers = adaptable_layers(network, settings.layers)
    if allowed is not None:
        layers = [name for name in layers if f"{name}.weight" in allowed]
    if not layers or settings.rank < 1:
        raise EncoderError(
            f"no layer to adapt with rank {settings.rank}: name some with lora.layers, lower "
            "freeze_until, and take a rank from 1 up"
        )
    facts = {"rank": settings.rank, "alpha": settings.alpha, "layers": layers}
    _inject(network, facts, settings.dropout)
    return facts


def adaptable_layers(network: nn.Module, wanted: Collection[str] | None) -> list[str]:
    """Names of the layers to adapt.

    Raises:
        EncoderError: If a wanted one does not exist.
    """
    known = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]
    if wanted is None:
        attention = [name for name in known if name.endswith(_ATTENTION)]
        return attention or known
    ends = {end: [n for n in known if n == end or n.endswith(f".{end}")] for end in wanted}
    for end, names in ends.items():
        if not names:
            examples = dict.fromkeys(".".join(name.split(".")[-2:]) for name in known)
            raise EncoderError(
                f"lora.layers names {end!r}, which no layer of this network ends in; its layers "
                f"end in {', '.join(list(examples)[:12])}"
            )
    return [name for name in known if any(name in names for names in ends.values())]


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of the adapters alone."""
    return {key: value for key, value in network.state_dict().items() if _MARK in key}


def load_adapters(
    network: nn.Module, facts: Mapping[str, Any], state: Mapping[str, Tensor]
) -> None:
    """Put saved adapters beside the layers of a network that holds their base.

    Args:
        network: The network; what lies behind its cut may be gone.
        facts: What `add_adapters` returned.
        state: What `adapter_state` returned.

    Raises:
        WeightsError: If the adapters are of another network.
    """
    modules = dict(network.named_modules())
    layers = [n for n in facts["layers"] if not _cut(n, modules)]
    missing = [name for name in layers if name not in modules]
    if missing:
        raise WeightsError(
            f"these adapters belong to layers that this network has not ({missing[0]}): they were "
            "made for another network"
        )
    _inject(network, {**facts, "layers": layers})
    own = adapter_state(network)
    kept = {key: value for key, value in state.items() if key in own}
    unlike = [key for key in own if key not in kept or kept[key].shape != own[key].shape]
    if unlike:
        raise WeightsError(
            f"these adapters do not fit this network ({unlike[0]}): they were made for another one"
        )
    network.load_state_dict(kept, strict=False)


def merge_adapters(network: nn.Module) -> None:
    """Add the adapters to the weights of their layers and take them away, in place."""
    from peft.tuners.lora import LoraLayer

    with torch.no_grad():
        for name, module in list(network.named_modules()):
            if isinstance(module, LoraLayer):
                module.merge()
                parent, _, child = name.rpartition(".")
                setattr(network.get_submodule(parent), child, module.get_base_layer())
    network.requires_grad_(True)


def trainable_share(network: nn.Module) -> float:
    """Share of a network's parameters that train."""
    counts = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return sum(n for n, trains in counts if trains) / max(1, sum(n for n, _ in counts))


def frozen_keys(network: nn.Module) -> set[str]:
    """Names of the parameters that do not train."""
    return {name for name, p in network.named_parameters() if not p.requires_grad}


def _cut(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a layer, or what it was part of, was replaced when the network was cut."""
    parts = name.split(".")
    places = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return any(isinstance(modules.get(place), nn.Identity) for place in places)


def _inject(network: nn.Module, facts: Mapping[str, Any], dropout: float = 0.0) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise EncoderError(
            "adapters need the package peft: pip install 'histotransfer_pl[lora]'"
        ) from error
    config = LoraConfig(
        r=facts["rank"],
        lora_alpha=facts["alpha"],
        lora_dropout=dropout,
        # a pattern matches whole names; of a list, peft takes every name that ends so
        target_modules="|".join(map(re.escape, facts["layers"])),
    )
    inject_adapter_in_model(config, network)
