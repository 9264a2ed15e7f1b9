"""Features of patches, at every requested depth, in one pass."""

import logging
from typing import Any, Literal

import torch
from lightning import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from histotransfer_pl.data.patch_batch import PatchBatch
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.attributes import ENCODER
from histotransfer_pl.store.layout import feature_path, mean_path
from histotransfer_pl.tasks.heap import keep_freed_memory

_log = logging.getLogger(__name__)


class FeatureExtractor(LightningModule):
    """Runs one or several encoders over patches.

    Args:
        encoder: Name in the catalogue, ``timm:<name>``, or a list of encoders with their own
            settings; the arguments below belong to a single name.
        weights: ``default``, ``random``, or the path of a checkpoint.
        depths: Names of the blocks to take features after, ``last`` or ``all``.
        seed: Seed of random weights.
        alias: Name in the store.
        input_px: Side to which patches are resized on the device; as they are when null.
        allow_download: Whether missing weights may be fetched from the hub.
        dtype: Precision of the features in the store.
        means: Depths of which the mean over the patches of each slide is stored as well, a row of
            float32: all that a head needs that averages patches first.
        full: Depths of which every patch is stored.
        compiled: Let torch.compile make kernels for the encoders: worth its minute on long jobs.
            Features differ by rounding only, so the store does not tell them apart.
    """

    def __init__(
        self,
        encoder: str | list[EncoderConfig] = "resnet18",
        weights: str = "default",
        depths: list[str] | Literal["all", "last"] = "last",
        seed: int = 0,
        alias: str | None = None,
        input_px: int | None = None,
        allow_download: bool = False,
        dtype: Literal["float16", "float32"] = "float16",
        means: list[str] | Literal["all"] | None = None,
        full: list[str] | Literal["all"] = "all",
        compiled: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(encoder, str):
            encoder = [
                EncoderConfig(
                    name=encoder,
                    weights=weights,
                    seed=seed,
                    depths=depths,
                    alias=alias,
                    input_px=input_px,
                    allow_download=allow_download,
                )
            ]
        self.dtype_in_store = dtype
        self.most_patches: int | None = None
        """Patches that fit the device at a time, once that is known."""
        self.encoders = nn.ModuleList(build_encoder(config) for config in encoder)
        if compiled:
            for item in self.encoders:
                item.compile()
        names = [config.store_name for config in encoder]
        if len(set(names)) < len(names):
            raise ConfigError(f"two encoders share a name in the store: {names}; give an alias")
        self.sources = self._sources(means or [], full)
        """Each array that is stored, and the features (depth of an encoder) it is made from."""
        self.arrays = list(self.sources)

    def provenance(self, precision: str) -> dict[str, dict[str, Any]]:
        """For each array what its attributes must say."""
        facts = {
            feature_path(item.name, depth): {
                **array_facts(item),
                ENCODER: item.spec.to_json(),
                "encoder": item.name,
                "depth": depth,
                "precision": precision,
            }
            for item in self._encoders()
            for depth in item.depths
        }
        return {array: facts[source] for array, source in self.sources.items()}

    @property
    def dims(self) -> dict[str, int]:
        """Feature dimension of each array."""
        dims = {
            feature_path(item.name, depth): item.dims[depth]
            for item in self._encoders()
            for depth in item.depths
        }
        return {array: dims[source] for array, source in self.sources.items()}

    @override
    def on_predict_start(self) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()
        elif self.device.type == "cuda":
            # What is left in float32 may use tensor cores: a ViT-L runs at 4.5 times the speed.
            torch.set_float32_matmul_precision("high")

    @override
    def predict_step(self, batch: PatchBatch, batch_idx: int) -> dict[str, Tensor]:
        """Features (B, D) of each depth of which a slide of the batch lacks an array."""
        if not len(batch.patches):
            return {}
        wanted = {self.sources[array] for array in batch.wanted}
        found: dict[str, Tensor] = {}
        for item in self._encoders():
            arrays = {depth: feature_path(item.name, depth) for depth in item.depths}
            if wanted.isdisjoint(arrays.values()):
                continue
            features = self._encode(item, batch.patches)
            found |= {arrays[depth]: features[depth] for depth in item.depths}
        return found

    def _sources(
        self, means: list[str] | Literal["all"], full: list[str] | Literal["all"]
    ) -> dict[str, str]:
        known = {depth for item in self._encoders() for depth in item.depths}
        sources: dict[str, str] = {}
        for name, chosen, path in (("full", full, feature_path), ("means", means, mean_path)):
            unknown = sorted(set(chosen) - known) if isinstance(chosen, list) else []
            if unknown:
                raise ConfigError(
                    f"model.{name} names {unknown[0]!r}, which is none of the depths "
                    f"{', '.join(sorted(known))}"
                )
            for item in self._encoders():
                for depth in item.depths:
                    if chosen == "all" or depth in chosen:
                        sources[path(item.name, depth)] = feature_path(item.name, depth)
        if len(set(sources.values())) < sum(len(item.depths) for item in self._encoders()):
            raise ConfigError(
                "model.full and model.means leave out depths that model.depths names: name them "
                "in one of the two"
            )
        return sources

    def _encode(self, encoder: PatchEncoder, patches: Tensor) -> dict[str, Tensor]:
        """Features (B, D) of each depth, in as few pieces as the device's memory allows."""
        while True:
            size = self.most_patches or len(patches)
            try:
                pieces = [encoder(piece) for piece in patches.split(size)]
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self.most_patches = -(-min(size, len(patches)) // 2)
            else:
                return {d: torch.cat([p[d].float() for p in pieces]) for d in encoder.depths}
            torch.cuda.empty_cache()
            _log.warning(
                "the device's memory does not hold %d patches: encoding %d at a time "
                "(data.batch_size sets it)",
                *(size, self.most_patches),
            )

    def _encoders(self) -> list[PatchEncoder]:
        return [item for item in self.encoders if isinstance(item, PatchEncoder)]


def default_precision(accelerator: object) -> str | None:
    """The precision of an extraction for which none is given; None leaves it to Lightning.

    On an NVIDIA GPU it is fp16 with float32 where that matters: on an H100 it was as fast as
    bf16, and its features were ten times closer to those of float32.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "16-mixed" if on_gpu else None


def array_facts(encoder: PatchEncoder) -> dict[str, Any]:
    """What belongs to every array of an encoder; of a tuned one also on whom it was tuned."""
    facts = dict(encoder.provenance)
    tuned: dict[str, Any] = facts.pop("tuned", {})
    return facts | {key: value for key, value in tuned.items() if key.startswith("tuned_")}
