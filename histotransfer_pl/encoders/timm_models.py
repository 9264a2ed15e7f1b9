"""Networks of timm: entries for any of them, and their construction."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import timm
import torch
from timm.models.convnext import ConvNeXt
from timm.models.densenet import DenseNet
from timm.models.efficientnet import EfficientNet
from timm.models.eva import Eva
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from histotransfer_pl.encoders.entry import EncoderEntry, Pooling, WeightsSource
from histotransfer_pl.encoders.generic import GenericTrunk
from histotransfer_pl.encoders.keys import KeyMap
from histotransfer_pl.encoders.swin import ConvStem, SwinTrunk
from histotransfer_pl.encoders.truncation import (
    ConvNextTrunk,
    Stage,
    Trunk,
    convnext_stages,
    densenet_stages,
    efficientnet_stages,
    resnet_stages,
)
from histotransfer_pl.encoders.vit import AttentionPool, RotaryVitTrunk, VitTrunk
from histotransfer_pl.errors import EncoderError

_VIT_MODULES = ("timm.models.vision_transformer", "timm.models.deit", "timm.models.eva")

_LAYERS: Mapping[str, Any] = {"ConvStem": ConvStem} | {
    name: getattr(timm.layers, name)
    for name in ("GluMlp", "Mlp", "PatchEmbed", "SwiGLU", "SwiGLUPacked")
}
"""Layers that arguments of a network may name; activations and norms timm finds by name itself."""


_HEADS: Mapping[str, Callable[[int], nn.Module]] = {"AttentionPool": AttentionPool}
"""Heads that `head_layer` may name."""

_CNN_STAGES: Mapping[type[nn.Module], Callable[[Any], list[Stage]]] = {
    ResNet: resnet_stages,
    DenseNet: densenet_stages,
    EfficientNet: efficientnet_stages,
}


def timm_entry(name: str) -> EncoderEntry:
    """An entry for a network of timm, with the facts that timm knows."""
    known = timm.get_pretrained_cfg(name, allow_unregistered=True) if _exists(name) else None
    if known is None:
        architecture = name.partition(".")[0]
        pool = timm.list_pretrained(f"{architecture}.*") or timm.list_models(module="")
        near = difflib.get_close_matches(name, pool, n=3, cutoff=0.0)
        raise EncoderError(f"timm has no network {name!r}; near it are {', '.join(near)}")
    architecture = name.partition(".")[0]
    tagged = f"{architecture}.{known.tag}" if known.tag else architecture
    source = WeightsSource(
        files=(f"{tagged}.safetensors", f"{architecture}.safetensors"),
        hub_repo=known.hf_hub_id,
        hub_file=known.hf_hub_filename or "model.safetensors",
        page=f"https://huggingface.co/{known.hf_hub_id}",
    )
    return described_entry(f"timm:{name}", architecture, asdict(known), source)


def described_entry(
    name: str,
    architecture: str,
    described: Mapping[str, Any],
    source: WeightsSource,
    options: Mapping[str, object] | None = None,
) -> EncoderEntry:
    """An entry from timm's description of pretrained weights (`pretrained_cfg`)."""
    is_vit = timm.model_entrypoint(architecture).__module__ in _VIT_MODULES
    any_size: dict[str, object] = {"dynamic_img_size": True} if is_vit else {}
    classifiers = described.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    pooling: Pooling = "token" if is_vit else "average"
    return EncoderEntry(
        name=name,
        architecture=architecture,
        domain="other",
        source=source,
        keys=KeyMap(drop=tuple(f"{classifier}." for classifier in classifiers)),
        mean=tuple(described["mean"]),
        std=tuple(described["std"]),
        native_px=described["input_size"][-1],
        pooling=pooling,
        options=any_size | dict(options or {}),
        licence=described.get("license") or "see its page",
        citation=described.get("paper_name") or "see its page",
    )


def build_network(entry: EncoderEntry, seed: int | None = None) -> Any:
    """The whole network of an entry, independent of the global random state.

    Args:
        entry: The encoder.
        seed: Seed of random weights. None draws no random numbers, which takes seconds less for a
            large network: its weights are arbitrary until a checkpoint is loaded.

    Returns:
        A network of timm. Under `torch.device("meta")` it has shapes and no values, which is
        enough to count.
    """
    # no pretrained=True anywhere: timm never touches the network for us
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0, **entry.options}
    head = options.pop("head_layer", None)
    for key, value in options.items():
        if key.endswith("_layer") and value in _LAYERS:
            options[key] = _LAYERS[value]
    try:
        network = initialised(lambda: _made(entry.architecture, head, options), seed)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise EncoderError(
            f"{entry.architecture} can't be built with {dict(entry.options)}: {error}; correct "
            f"model_args (layers by name: {', '.join(_LAYERS)})"
        ) from error
    if entry.norm_eps is not None:
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = entry.norm_eps
    return network


def _made(architecture: str, head: str | None, options: Mapping[str, Any]) -> Any:
    network: Any = timm.create_model(architecture, **options)
    if head is not None:
        network.head = _HEADS[head](network.embed_dim)
    return network


def initialised(build: Callable[[], Any], seed: int | None) -> Any:
    """What `build` makes, with random weights of a seed, or with arbitrary ones and no draws."""
    with _NoDraws() if seed is None else _seeded(seed):
        network = build()
    if seed is not None:
        open_residual_branches(network)
    return network


def open_residual_branches(network: nn.Module) -> None:
    """Give zero-initialised norms and tiny layer scales the value 1, in place.

    timm starts ResNets and ConvNeXts with residual branches that are switched off, because this
    trains better. As a baseline with random weights such a network would compute next to nothing.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            is_scale = name.rpartition(".")[2].startswith("gamma")
            if is_scale or (name.endswith(".weight") and not parameter.any()):
                parameter.fill_(1.0)


def timm_trunk(network: nn.Module, pooling: Pooling) -> Trunk:
    """Name the blocks of a network, by the family it belongs to."""
    if isinstance(network, (VisionTransformer, Eva)):
        trunk = VitTrunk if isinstance(network, VisionTransformer) else RotaryVitTrunk
        return trunk(network, "token" if pooling == "average" else pooling)
    if pooling != "average":
        raise EncoderError(f"pooling {pooling!r} is for ViTs; leave it at `default` for this one")
    if isinstance(network, DenseNet):
        # the ReLU behind the last norm belongs to the classifier: no histopathology encoder of
        # this family has it in its features
        network.get_submodule("features.norm5").act = nn.Identity()
    for family, name_stages in _CNN_STAGES.items():
        if isinstance(network, family):
            return Trunk(network, name_stages(network))
    if isinstance(network, ConvNeXt) and hasattr(network.head, "norm"):
        return ConvNextTrunk(network, convnext_stages(network))
    return SwinTrunk(network) if isinstance(network, SwinTransformer) else GenericTrunk(network)


class _NoDraws(TorchFunctionMode):
    """Turns the in-place random fillers of tensors into nothing; without values, all fillers."""

    fillers = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.erfinv_})
    of_shapes = fillers | {Tensor.mul_, Tensor.add_, Tensor.clamp_, Tensor.fill_, Tensor.zero_}

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        nothing = func in self.fillers or (func in self.of_shapes and args[0].is_meta)
        return args[0] if nothing else func(*args, **(kwargs or {}))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # only the CPU generator: torch.manual_seed would also touch the devices' global state
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _exists(name: str) -> bool:
    architecture, _, tag = name.partition(".")
    return timm.is_model(architecture) and (not tag or name in timm.list_pretrained())
