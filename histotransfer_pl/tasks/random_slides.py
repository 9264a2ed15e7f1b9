"""Mean features of slides from networks with random weights, without storing patch features."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from histotransfer_pl.data.patch_batch import PatchBatch, cut_into_batches
from histotransfer_pl.data.patch_sample import PatchSampleDataModule, draw_batches
from histotransfer_pl.data.patch_source import PatchSource
from histotransfer_pl.data.patch_threads import PatchDataset
from histotransfer_pl.encoders.batchnorm import reestimating
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.errors import SlideError
from histotransfer_pl.tasks.layer_probe import (
    CALIBRATION_TILES,
    Layers,
    RandomBatchNorm,
    has_batchnorm,
)


def random_slide_means(
    config: EncoderConfig,
    networks: Sequence[tuple[int, RandomBatchNorm]],
    data: PatchSampleDataModule,
    slide_ids: Sequence[str],
    device: str,
) -> list[Layers]:
    """Mean over the patches of each slide (S, D) at each depth, for each network.

    All networks see a patch when it is read, so that slides are read once. Re-estimated
    BatchNorm statistics come from patches drawn from all slides, without labels.

    Raises:
        SlideError: A patch that cannot be read: both arms must see the same ones.
    """
    encoders = [
        build_encoder(replace(config, weights="random", seed=seed, alias=None)).to(device)
        for seed, _ in networks
    ]
    by_id = {item.entry.slide_id: item for item in data.work}
    work = [by_id[slide_id] for slide_id in slide_ids]
    _reestimate(
        [
            encoder
            for encoder, (_, batchnorm) in zip(encoders, networks, strict=True)
            if batchnorm == "reestimated" and has_batchnorm(encoder)
        ],
        data,
        device,
    )
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")  # tensor cores, as in `extract`
    sums = [_zeros(encoder, len(work)) for encoder in encoders]
    batches = list(cut_into_batches([item.n_patches for item in work], data.batch_size))
    source = PatchSource(data.store, data.grid)
    dataset = PatchDataset(source, work, batches, data.threads, data.threads)
    with torch.inference_mode():
        for batch in DataLoader(dataset, batch_size=None):
            patches, places = _readable(batch).patches.to(device), batch.slides.numpy()
            for encoder, total in zip(encoders, sums, strict=True):
                for depth, values in encoder(patches).items():
                    np.add.at(total[depth], places, values.double().cpu().numpy())
    sizes = np.array([item.n_patches for item in work])[:, None]  # (S, 1)
    return [{depth: total / sizes for depth, total in one.items()} for one in sums]


def _reestimate(encoders: Sequence[PatchEncoder], data: PatchSampleDataModule, device: str) -> None:
    """BatchNorm statistics of all encoders from the same patches, which are read once."""
    if not encoders:
        return
    with ExitStack() as stack, torch.no_grad():
        for encoder in encoders:
            stack.enter_context(reestimating(encoder))
        for patches in _sampled_patches(data):
            for encoder in encoders:
                encoder(patches.to(device))


def _sampled_patches(data: PatchSampleDataModule) -> Iterator[Tensor]:
    """Patches (B, P, P, 3) of all slides; batches of one size, for each counts alike."""
    counts = [item.n_patches for item in data.work]
    batches = draw_batches(counts, CALIBRATION_TILES, data.batch_size, data.seed)
    for batch in data.loader([batch for batch in batches if len(batch) == len(batches[0])]):
        yield _readable(batch).patches


def _zeros(encoder: PatchEncoder, n_slides: int) -> dict[str, NDArray[np.floating[Any]]]:
    return {depth: np.zeros((n_slides, encoder.dims[depth])) for depth in encoder.depths}


def _readable(batch: PatchBatch) -> PatchBatch:
    if batch.failures:
        raise SlideError(
            f"{batch.failures[0][1]}; both arms of the probe must see the same patches: repair "
            "the slide or leave it out of the cohort"
        )
    return batch
