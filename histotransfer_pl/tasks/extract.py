"""Features of patches, at every requested depth, in one pass."""

from typing import Any, Literal

from lightning import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from histotransfer_pl.data.patch_source import PatchBatch
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.store.layout import feature_path
from histotransfer_pl.tasks.heap import keep_freed_memory


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
        self.encoders = nn.ModuleList(build_encoder(config) for config in encoder)
        if compiled:
            for item in self.encoders:
                item.compile()
        names = [config.store_name for config in encoder]
        if len(set(names)) < len(names):
            raise ConfigError(f"two encoders share a name in the store: {names}; give an alias")
        self.arrays = [
            feature_path(item.name, depth) for item in self._encoders() for depth in item.depths
        ]

    def provenance(self, precision: str) -> dict[str, dict[str, Any]]:
        """For each array what its attributes must say."""
        return {
            feature_path(item.name, depth): {
                **array_facts(item),
                "encoder": item.name,
                "depth": depth,
                "precision": precision,
            }
            for item in self._encoders()
            for depth in item.depths
        }

    @property
    def dims(self) -> dict[str, int]:
        """Feature dimension of each array."""
        return {
            feature_path(item.name, depth): item.dims[depth]
            for item in self._encoders()
            for depth in item.depths
        }

    @override
    def on_predict_start(self) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()

    @override
    def predict_step(self, batch: PatchBatch, batch_idx: int) -> dict[str, Tensor]:
        """Features (B, D) of each array that a slide of the batch lacks."""
        if not len(batch.patches):
            return {}
        wanted = set(batch.wanted)
        found: dict[str, Tensor] = {}
        for item in self._encoders():
            arrays = {depth: feature_path(item.name, depth) for depth in item.depths}
            if wanted.isdisjoint(arrays.values()):
                continue
            features = item(batch.patches)
            found |= {arrays[depth]: features[depth].float() for depth in item.depths}
        return found

    def _encoders(self) -> list[PatchEncoder]:
        return [item for item in self.encoders if isinstance(item, PatchEncoder)]


def array_facts(encoder: PatchEncoder) -> dict[str, Any]:
    """What belongs to every array of an encoder; of a tuned one also on whom it was tuned."""
    facts = dict(encoder.provenance)
    tuned: dict[str, Any] = facts.pop("tuned", {})
    return facts | {key: value for key, value in tuned.items() if key.startswith("tuned_")}
