"""How alike two encoders represent the same patches, block by block, with controls."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal, cast

import torch
from lightning import LightningModule
from torch import Tensor
from typing_extensions import override

from histotransfer_pl.analysis.minibatch_cka import MinibatchCKA
from histotransfer_pl.data.patch_batch import PatchBatch
from histotransfer_pl.data.patch_sample import PatchSampleDataModule
from histotransfer_pl.encoders.batchnorm import reestimate_batchnorm
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.errors import AnalysisError, ConfigError
from histotransfer_pl.tasks.layer_probe import RandomBatchNorm, has_batchnorm
from histotransfer_pl.tasks.metrics import from_all_ranks

Space = Literal["pooled", "flattened"]
Features = dict[str, Tensor]
_CALIBRATION_BATCHES = 4

FEW_PATCHES = 1000
"""Below this many patches CKA is noisy."""

_log = logging.getLogger(__name__)


@dataclass
class ComparedEncoder(EncoderConfig):
    """An encoder of a comparison: by default all its blocks take part."""

    depths: list[str] | Literal["all", "last"] = "all"


@dataclass(frozen=True, eq=False)
class CKAResult:
    """CKA of all blocks in one space.

    Attributes:
        pair: (L1, L2) first against second network.
        itself: (L1,) each block against the same block, computed a second time with the patches
            in reverse: 1 unless the network is random in itself or mixes patches.
        random: (L1,) each block against the same block of a network with random weights; None
            without controls.
        dims_first: Features of each block of the first network.
        dims_second: The same for the second.
    """

    pair: Tensor
    itself: Tensor | None
    random: Tensor | None
    dims_first: dict[str, int]
    dims_second: dict[str, int]


class RepresentationSimilarity(LightningModule):
    """Unbiased minibatch CKA of every block of one encoder with every block of another.

    Run it with ``Trainer.test`` over a ``PatchSampleDataModule``; ``results`` then holds a
    ``CKAResult`` for each space.

    Args:
        first: An encoder.
        second: Another one; its weights may be ``random``.
        flattened: Also compare feature maps position by position, not only their averages.
        controls: Also compare the first encoder with itself and with a random network.
        random_batchnorm: BatchNorm statistics of networks with random weights: ``reestimated`` on
            the first patches of the sample, or ``initial`` (mean 0, variance 1).
    """

    def __init__(
        self,
        first: ComparedEncoder,
        second: ComparedEncoder,
        flattened: bool = True,
        controls: bool = True,
        random_batchnorm: RandomBatchNorm = "reestimated",
    ) -> None:
        super().__init__()
        if asdict(first) == asdict(second):
            raise ConfigError(
                f"first and second are the same encoder {first.store_name}: its CKA with itself "
                "is a control of every comparison; name another second"
            )
        self.first = build_encoder(first)
        self.second = build_encoder(second)
        self.random: PatchEncoder | None = None
        if controls:
            self.random = build_encoder(random_twin(first, second))
        self.random_batchnorm = random_batchnorm
        self.reestimated: dict[str, int] = {}
        self.results: dict[Space, CKAResult] = {}
        self.unreadable: list[str] = []
        self.spaces: tuple[Space, ...] = ("pooled", "flattened") if flattened else ("pooled",)
        layers = [_column("second", depth) for depth in self.second.depths]
        if self.random is not None:
            layers += [_column(who, d) for who in ("itself", "random") for d in self.first.depths]
        # One metric for the pair and its controls: the Gram matrices of the first network, which
        # cost most, are made once.
        self.metrics = torch.nn.ModuleDict(
            {space: MinibatchCKA(self.first.depths, layers) for space in self.spaces}
        )

    @override
    def on_test_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, PatchSampleDataModule):
            raise ConfigError(
                f"the comparison needs PatchSampleDataModule as data, got {type(data).__name__}"
            )
        if data.drawn < FEW_PATCHES:
            _log.warning(
                "only %d patches of %d slides: below %d CKA is noisy; take more slides or a "
                "larger data.n_patches",
                data.drawn, len(data.work), FEW_PATCHES,
            )  # fmt: skip
        if self.random_batchnorm == "initial":
            return
        # The same patches on every rank, so that all ranks hold the same networks.
        loader = data.loader(data.batches[:_CALIBRATION_BATCHES])
        self.calibrate(batch.patches.to(self.device) for batch in loader)

    def calibrate(self, batches: Iterator[Tensor]) -> None:
        """Re-estimate the BatchNorm statistics of the random networks on patches (B, P, P, 3)."""
        found = [patches for patches in islice(batches, _CALIBRATION_BATCHES) if len(patches)]
        for encoder in (self.first, self.second, self.random):
            if encoder is None or encoder.provenance["weights"] != "random":
                continue
            if has_batchnorm(encoder):
                if not found:
                    raise AnalysisError("no patch could be read: look at the warnings above")
                reestimate_batchnorm(encoder, found)
                self.reestimated[encoder.name] = sum(map(len, found))

    @override
    def test_step(self, batch: PatchBatch, batch_idx: int) -> None:
        self.unreadable += [reason for _, reason in batch.failures]
        if len(batch.patches):
            self.compare(batch.patches)

    def compare(self, patches: Tensor) -> None:
        """Add a batch of patches (B, P, P, 3) uint8."""
        first = self._spaces(self.first, patches)
        others = {"second": self._spaces(self.second, patches)}
        if self.random is not None:
            others["random"] = self._spaces(self.random, patches)
            turned = self._spaces(self.first, patches.flip(0))
            others["itself"] = {
                space: {depth: values.flip(0) for depth, values in features.items()}
                for space, features in turned.items()
            }
        for space in self.spaces:
            columns = {
                _column(who, depth): values
                for who, spaces in others.items()
                for depth, values in spaces[space].items()
            }
            self._metric(space).update(first[space], columns)

    @override
    def on_test_epoch_end(self) -> None:
        self.results = self.compute()
        shares = from_all_ranks(self.trainer, self.unreadable)
        self.unreadable = [reason for share in shares for reason in share]

    def compute(self) -> dict[Space, CKAResult]:
        """The matrices of what was seen so far, on all ranks together."""
        pooled = self._metric("pooled")
        with pooled.sync_context(dist_sync_fn=pooled.dist_sync_fn):
            self.n_patches = int(pooled.patches)
        return {space: self._result(self._metric(space)) for space in self.spaces}

    def _metric(self, space: Space) -> MinibatchCKA:
        return cast("MinibatchCKA", self.metrics[space])

    def _result(self, metric: MinibatchCKA) -> CKAResult:
        matrix = metric.compute().cpu()  # (L1, columns)
        named = {name: matrix[:, i] for i, name in enumerate(metric.layers_y)}
        controls: dict[str, Tensor | None] = {"itself": None, "random": None}
        if self.random is not None:
            for who in controls:
                values = [named[_column(who, d)][i] for i, d in enumerate(self.first.depths)]
                controls[who] = torch.stack(values)  # (L1,)
        return CKAResult(
            pair=torch.stack([named[_column("second", d)] for d in self.second.depths], 1),
            itself=controls["itself"],
            random=controls["random"],
            dims_first=_dims(metric.widths, {d: f"x.{d}" for d in self.first.depths}),
            dims_second=_dims(
                metric.widths, {d: f"y.{_column('second', d)}" for d in self.second.depths}
            ),
        )

    def _spaces(self, encoder: PatchEncoder, patches: Tensor) -> dict[Space, Features]:
        """Average features (B, D) and, where asked for, maps (B, D, h, w), in one pass."""
        images = encoder.normalise(patches)  # (B, 3, P, P)
        sides = (images.shape[-2], images.shape[-1])
        trunk = encoder.trunk
        outputs = trunk(images, encoder.depths)
        spaces: dict[Space, Features] = {}
        spaces["pooled"] = {depth: trunk.vector(depth, out) for depth, out in outputs.items()}
        if "flattened" in self.spaces:
            spaces["flattened"] = {d: trunk.map(d, out, sides) for d, out in outputs.items()}
        return spaces


def random_twin(first: EncoderConfig, second: EncoderConfig) -> EncoderConfig:
    """The first encoder with random weights, of a seed that neither of both has."""
    taken = {config.seed for config in (first, second) if config.weights == "random"}
    seed = next(number for number in range(len(taken) + 1) if number not in taken)
    return replace(first, weights="random", seed=seed, alias=None)


def _column(who: str, depth: str) -> str:
    return f"{who}:{depth}"


def _dims(widths: Mapping[str, tuple[int, ...]], names: Mapping[str, str]) -> dict[str, int]:
    dims: dict[str, int] = {}
    for depth, name in names.items():
        dims[depth] = int(torch.Size(widths[name]).numel())
    return dims


def facts_of(encoder: PatchEncoder) -> dict[str, Any]:
    """What identifies the network, as plain JSON types."""
    kept = ("encoder", "weights", "weights_sha256", "input_px", "pooling")
    tuned = encoder.provenance.get("tuned", {})
    how = {key: tuned[key] for key in ("tuned_rule", "tuned_fold") if key in tuned}
    return {key: encoder.provenance[key] for key in kept} | how
