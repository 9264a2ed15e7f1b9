"""The encoder: uint8 patches in, feature vectors of every requested depth out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from typing_extensions import override

from histotransfer_pl.encoders.adapters import (
    LoraSettings,
    adapter_state,
    add_adapters,
    load_adapters,
    merge_adapters,
)
from histotransfer_pl.encoders.catalogue import CATALOGUE, configured_entry
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.entry import EncoderEntry
from histotransfer_pl.encoders.networks import build_trunk
from histotransfer_pl.encoders.truncation import Trunk, select_depths
from histotransfer_pl.encoders.tuned import read_facts, save_weights
from histotransfer_pl.encoders.weights import (
    WeightsFile,
    load_checkpoint,
    read_checkpoint,
    require_weights,
)
from histotransfer_pl.errors import EncoderError, WeightsError
from histotransfer_pl.records.encoder import WeightsRef


class PatchEncoder(nn.Module):
    """A network cut after the deepest requested block, with its own normalisation.

    Gradients flow; the caller chooses inference mode, autocast and train or eval mode.

    Args:
        name: Name in the store.
        entry: Its entry in the catalogue.
        trunk: The network, whole or cut.
        depths: Depths to give features of, shallowest first.
        weights: Where its weights come from.
        tuned: What the file of a tuned encoder says of its tuning.
        weights_setting: How the user named the weights, for adapters that stand on them.
        input_px: Side to which patches are resized; as they are when None.
        channels_last: Memory layout of the images.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        entry: EncoderEntry,
        trunk: Trunk,
        *,
        depths: Sequence[str],
        weights: WeightsRef,
        tuned: Mapping[str, Any] | None = None,
        weights_setting: str = "default",
        input_px: int | None = None,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.name = name
        self.entry = entry
        self.all_depths = trunk.depths
        self.depths = list(depths)
        self.input_px = input_px
        self.spec = replace(entry.spec(weights), input_px=input_px)
        self.tuned = None if tuned is None else dict(tuned)
        self.adapter: dict[str, Any] | None = None
        self.weights_setting = weights_setting
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.register_buffer("mean", torch.tensor(entry.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(entry.std).view(1, 3, 1, 1), persistent=False)
        trunk.cut_after(self.depths[-1])
        self.trunk = trunk.to(memory_format=self.memory_format)
        self.dims = trunk.dims(self.depths, input_px or entry.native_px)

    @property
    def network(self) -> nn.Module:
        """The (cut) network of timm, with timm's names."""
        return self.trunk.network

    @property
    def provenance(self) -> dict[str, Any]:
        """Facts that belong to every feature array, as plain JSON types."""
        spec, weights = self.spec, self.spec.weights
        known = CATALOGUE.get(spec.name)
        usual = known is not None and spec.model_args == known.options
        facts: dict[str, Any] = {
            "encoder": spec.name,
            "architecture": spec.architecture,
            "pooling": spec.pooling,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "input_px": spec.input_px,
            "timm": timm.__version__,
            "torch": str(torch.__version__),
            "weights": "random" if weights.random else weights.origin,
            "weights_sha256": (
                f"random:{weights.seed}" if weights.random else weights.sha256 or weights.origin
            ),
        }
        if not usual and spec.model_args:
            facts["model_args"] = dict(spec.model_args)
        return facts if self.tuned is None else facts | {"tuned": self.tuned}

    @override
    def forward(self, patches: Tensor) -> dict[str, Tensor]:
        """Feature vectors of every depth, in one pass.

        Args:
            patches: uint8 (B, P, P, 3), red green blue.

        Returns:
            Float features (B, D) per depth.

        Raises:
            EncoderError: If the patches are of another type or shape, or of a size that the
                network can't take.
        """
        outputs = self.trunk(self.normalise(patches), self.depths)
        return {depth: self.trunk.vector(depth, output) for depth, output in outputs.items()}

    def feature_maps(self, patches: Tensor) -> dict[str, Tensor]:
        """Feature maps (B, D, h, w) of every depth, before pooling; arguments as in `forward`."""
        images = self.normalise(patches)  # (B, 3, P, P)
        sides = (images.shape[-2], images.shape[-1])
        outputs = self.trunk(images, self.depths)
        return {depth: self.trunk.map(depth, output, sides) for depth, output in outputs.items()}

    def cut_after(self, depth: str) -> None:
        """Remove everything behind the block `depth`, in place.

        Raises:
            EncoderError: If there is no such depth, or no requested one is left.
        """
        self.trunk.cut_after(depth)
        left = {*self.trunk.depths, *self.trunk.inner_depths}
        self.depths = [kept for kept in self.depths if kept in left]
        if not self.depths:
            raise EncoderError(f"nothing that was asked for is left before {depth!r}")
        self.dims = {kept: self.dims[kept] for kept in self.depths}

    def save(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Write the weights as safetensors that `weights: <path>` loads again.

        Args:
            path: File to write.
            facts: What belongs to the weights, as plain JSON types; it comes back as
                `provenance["tuned"]` of the encoder that loads them.
        """
        facts = {"depths": self.depths, **facts}
        tensors = self.network.state_dict()
        if self.adapter is not None:
            base = {"weights": self.weights_setting, "seed": self.spec.weights.seed or 0}
            facts |= {"adapter": self.adapter, "base": base}
            tensors = adapter_state(self.network)
        save_weights(tensors, path, self.spec, facts)

    def adapt(self, settings: LoraSettings, allowed: Collection[str] | None = None) -> None:
        """Put adapters beside its layers and freeze everything else; see `add_adapters`."""
        self.adapter = add_adapters(self.network, settings, allowed)

    def merge(self) -> None:
        """Merge the adapters into the weights; what is saved then is the whole encoder."""
        merge_adapters(self.network)
        self.adapter = None

    def normalise(self, patches: Tensor) -> Tensor:
        """Images (B, 3, input_px, input_px) as the network wants them, from uint8 patches."""
        if patches.dtype != torch.uint8 or patches.ndim != 4 or patches.shape[-1] != 3:
            raise EncoderError(
                f"patches of type {patches.dtype} and shape {tuple(patches.shape)}; the encoder "
                "takes torch.uint8 (B, P, P, 3): it normalises them itself"
            )
        images = patches.permute(0, 3, 1, 2).to(self.mean.dtype)  # (B, 3, P, P)
        if self.input_px is not None and images.shape[-2:] != (self.input_px, self.input_px):
            size = (self.input_px, self.input_px)
            images = interpolate(images, size, mode="bilinear", antialias=True)
        self._check_size(images.shape[-2], images.shape[-1])
        images = (images / 255 - self.mean) / self.std
        return images.contiguous(memory_format=self.memory_format)

    def _check_size(self, height: int, width: int) -> None:
        multiple, least = self.trunk.multiple_px, self.trunk.least_px
        fixed = self.trunk.fixed_px
        if fixed is not None and (height, width) != (fixed, fixed):
            wanted, advice = f"exactly {fixed} px", f"{fixed}"
        elif min(height, width) < least or height % multiple or width % multiple:
            near = max(least, round(height / multiple) * multiple)
            wanted = f"at least {least} px and a multiple of {multiple} px"
            advice = f"{near} or {self.entry.native_px} (the size it was trained at)"
        else:
            return
        raise EncoderError(
            f"{self.name} can't take patches of {height} x {width} px: its input must be {wanted}; "
            f"set input_px to {advice}"
        )


def build_encoder(config: EncoderConfig) -> PatchEncoder:
    """The encoder of a config, in eval mode, on the CPU.

    Raises:
        EncoderError: If the encoder or a depth does not exist.
        WeightsError: If the weights are missing, damaged or of another network.
    """
    # Lightning builds on the GPU, whose random numbers, and so random weights, are others.
    with torch.device("cpu"):
        return _build(config)


def _build(config: EncoderConfig) -> PatchEncoder:
    entry = configured_entry(config)
    trunk = build_trunk(entry, config.seed if config.weights == "random" else None)
    depths = select_depths(trunk, config.depths)
    facts: dict[str, Any] | None = None
    if not trunk.network.state_dict():
        weights = WeightsRef("pretrained", origin="none")
    elif config.weights == "random":
        weights = WeightsRef("random", seed=config.seed)
    else:
        found = require_weights(entry, config.weights, allow_download=config.allow_download)
        facts = read_facts(found.path, entry)
        if facts is not None and "adapter" in facts:
            return _adapted(config, found, facts)
        load_checkpoint(
            trunk.network,
            read_checkpoint(found.path),
            entry,
            found.path,
            _may_lack(trunk, depths, facts),
            config.weights_key,
        )
        weights = WeightsRef(
            "pretrained" if facts is None else "tuned",
            origin=found.origin,
            sha256=found.sha256(),
            base=str((facts or {}).get("tuned_from_sha256", "")),
        )
    return PatchEncoder(
        config.store_name,
        entry,
        trunk,
        depths=depths,
        weights=weights,
        tuned=facts,
        weights_setting=config.weights,
        input_px=config.input_px,
        channels_last=config.channels_last,
    ).eval()


def _adapted(config: EncoderConfig, found: WeightsFile, facts: dict[str, Any]) -> PatchEncoder:
    """The encoder of an adapter file: its base, with the adapters merged into it."""
    base = facts["base"]
    config = replace(
        config,
        weights=config.base_weights or base["weights"],
        seed=base["seed"],
        alias=config.store_name,
    )
    encoder = _build(config)
    own = encoder.spec.weights
    named = WeightsRef.from_json(facts["spec"]["weights"])
    if (own.sha256, own.seed) != (named.sha256, named.seed):
        raise WeightsError(
            f"{found.path} is an adapter of weights {named.sha256[:12] or named.seed} "
            f"({named.origin or named.kind}), and {config.weights} is "
            f"{own.sha256[:12] or own.seed}: give base_weights the file it was made on"
        )
    deepest = facts["depths"][-1]
    if encoder.trunk.place(encoder.depths[-1]) > _place(encoder, deepest):
        raise WeightsError(
            f"{found.path} was tuned up to {deepest}: take no depth behind it, not "
            f"{encoder.depths[-1]}"
        )
    load_adapters(encoder.network, facts["adapter"], read_checkpoint(found.path))
    merge_adapters(encoder.network)
    weights = WeightsRef(
        "adapter",
        origin=found.origin,
        sha256=found.sha256(),
        base=own.sha256 or f"random:{own.seed}",
    )
    encoder.spec = replace(encoder.spec, weights=weights)
    encoder.tuned = facts
    return encoder


def _place(encoder: PatchEncoder, depth: str) -> tuple[int, bool]:
    """Where a depth lies; behind everything if the encoder was cut before it."""
    left = (*encoder.trunk.depths, *encoder.trunk.inner_depths)
    return encoder.trunk.place(depth) if depth in left else (len(encoder.all_depths), True)


def _may_lack(trunk: Trunk, depths: Sequence[str], facts: Mapping[str, Any] | None) -> set[str]:
    """Keys that a checkpoint may lack: those behind the cut; a tuned encoder has its own cut."""
    deepest = depths[-1]
    saved = [] if facts is None else [d for d in facts["depths"] if d in trunk.depths]
    if saved and trunk.depths.index(saved[-1]) > trunk.depths.index(deepest):
        deepest = saved[-1]
    return trunk.keys_behind(deepest)
