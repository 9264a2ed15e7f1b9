"""What a study will take before it begins: files of weights, hours of a GPU, disk."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

from histotransfer_pl.data.checkup import GIB, Finding, existing_folder, span
from histotransfer_pl.data.stored_depths import feature_bytes
from histotransfer_pl.encoders.catalogue import configured_entry
from histotransfer_pl.encoders.config import EncoderConfig, Method
from histotransfer_pl.encoders.cost import DepthCost, count_costs, measure_costs
from histotransfer_pl.encoders.networks import build_trunk, requested_depths
from histotransfer_pl.encoders.weights import require_weights
from histotransfer_pl.errors import WeightsError
from histotransfer_pl.study.config import StudyConfig
from histotransfer_pl.study.tuning import Stage1, tuned_encoders

Kind = Literal["extraction", "tuning", "random networks of the gain", "CKA"]

_STATED = {"16": 1.8e14, "tf32": 9.1e13, "32": 2.0e13}
"""Multiply-accumulates per second of a ViT-L/16 (61.6 G per patch of 224 px) on one H100, from
3,015 patches/s in bf16, 1,475 with TF32 (which `extract` sets) and 330 in fp32."""
_CONVOLUTIONS = 0.3
"""A ResNet-18 reaches this share of a transformer's rate there (31,470 patches/s in bf16)."""
_BACKWARD: Mapping[Method, float] = {"full": 2.0, "lora": 1.0, "last_blocks": 0.5, "frozen": 0.0}
"""Cost of a backward pass in forward passes: one for activations, one more for all weights."""
_EPOCHS = 50
"""At most, where a study does not say; fits end early."""
_COMPARED = 4096


@dataclass(frozen=True)
class Amount:
    """How much a study reads: slides, and patches of all of them together."""

    slides: int
    patches: int


@dataclass(frozen=True)
class Work:
    """What an encoder has to do in a study."""

    macs: Mapping[Kind, float]
    feature_bytes: float
    run_bytes: float


def forecast(
    config: StudyConfig, amount: Amount, macs_per_s: float | None = None
) -> Iterator[Finding]:
    """Say for each encoder and for the whole what a study will take; nothing is fetched or built.

    Args:
        config: The study.
        amount: Its slides.
        macs_per_s: Multiply-accumulates per second of the device it will run on; measured where
            this machine has a GPU, else those of one H100.
    """
    depths = {encoder.store_name: requested_depths(encoder) for encoder in config.encoders}
    tuned = tuned_encoders(config, depths)
    hours = Counter[Kind]()
    features = runs = 0.0
    for encoder in config.encoders:
        yield from _weights(encoder)
        name = encoder.store_name
        costs = _costs(config, encoder, depths[name])
        work = encoder_work(config, encoder, costs, [t for t in tuned if t.encoder == name], amount)
        own = _hours(config, encoder, work, macs_per_s)
        yield Finding(
            "encoder",
            f"{name}: {costs[-1].macs / 1e9:.3g} GMACs per patch, {len(costs)} depths; "
            f"{_in_words(own)}; {work.feature_bytes / GIB:.2g} GiB of features",
        )
        hours.update(own)
        features, runs = features + work.feature_bytes, runs + work.run_bytes
    yield Finding("cost", f"GPU time {_in_words(hours)}; {_source(macs_per_s)}")
    free = shutil.disk_usage(existing_folder(config.folder)).free
    short = features + runs > free
    text = (
        f"about {(features + runs) / GIB:.3g} GiB ({features / GIB:.3g} of features, "
        f"{runs / GIB:.3g} of tuned networks), {free / GIB:.3g} GiB free"
    )
    yield Finding("disk", text + ("; free the difference first" if short else ""), problem=short)


def encoder_work(
    config: StudyConfig,
    encoder: EncoderConfig,
    costs: Sequence[DepthCost],
    tuned: Sequence[Stage1],
    amount: Amount,
) -> Work:
    """Arithmetic and bytes of one encoder.

    Fits on stored features and the report are left out: they take minutes of a CPU.
    """
    deepest, patches = costs[-1].macs, amount.patches
    macs = Counter[Kind]({"extraction": patches * deepest})
    known = {row.depth: row for row in costs}
    dims = {depth: row.dim for depth, row in known.items()}
    size = float(config.store.size(amount.slides, patches, dims))
    run_size = 0.0
    arms = [(t, m) for t in tuned for _ in config.tuned_variants for m in config.tuning.methods]
    for start, method in arms:
        row = known[start.depth]
        macs["tuning"] += round(_tuning_passes(config, method, amount) * row.macs)
        macs["extraction"] += patches * row.macs  # again, with the tuned encoder
        size += feature_bytes(patches, [row.dim])
        run_size += _run_bytes(row.parameters, method)
    seeds = sum(len(p.random_seeds) for p in config.gain if p.encoder == encoder.store_name)
    pairs = sum(encoder.store_name in (p.first, p.second) for p in config.similarity)
    macs["random networks of the gain"] = seeds * patches * deepest
    macs["CKA"] = pairs * _COMPARED * deepest
    return Work(macs, size, run_size)


def _tuning_passes(config: StudyConfig, method: Method, amount: Amount) -> float:
    """Forward passes that a fine-tuning costs: training and validation of every epoch, test."""
    settings: dict[str, Any] = config.tuning.fit
    epochs: int = settings.get("trainer", {}).get("max_epochs", _EPOCHS)
    again = 1.0 if settings.get("model", {}).get("checkpoint_activations") else 0.0
    part = 1 / config.folds.n_folds  # tests, one more validates, the rest trains
    chosen = min(config.tuning.k * amount.slides, amount.patches)
    step = (1 + again + _BACKWARD[method]) * (1 - 2 * part) * chosen
    return epochs * (step + part * amount.patches) + part * amount.patches


def _run_bytes(parameters: int, method: Method) -> float:
    """Two checkpoints (weights, two moments of Adam each) and the encoder; of adapters a hundredth.

    A checkpoint of adapters does not hold their base.
    """
    return (0.01 if method == "lora" else 1.0) * parameters * 4 * (2 * 3 + 1)


def _weights(encoder: EncoderConfig) -> Iterator[Finding]:
    """Whether the weights are here, and where to ask for them."""
    if encoder.weights == "random":
        return
    entry = configured_entry(encoder)
    with torch.device("meta"):
        network = build_trunk(entry).network
    gib = sum(value.nbytes for value in network.state_dict().values()) / GIB
    if not gib:
        return
    try:
        found = require_weights(entry, encoder.weights, allow_download=False)
    except WeightsError as error:
        text = f"{error}. Nothing was fetched; such a file has about {gib:.2g} GiB"
        fetched = encoder.allow_download and entry.source.hub_repo is not None
        yield Finding("weights", text, problem=not fetched)
    else:
        yield Finding("weights", f"{encoder.store_name}: {found.path}")


def _costs(config: StudyConfig, encoder: EncoderConfig, depths: Sequence[str]) -> list[DepthCost]:
    rows = count_costs(configured_entry(encoder), encoder.input_px or config.grid.patch_px)
    named = {depth.partition(".")[0] for depth in depths}  # one inside a block costs the block
    return [row for row in rows if row.depth in named]


def _hours(
    config: StudyConfig, encoder: EncoderConfig, work: Work, macs_per_s: float | None
) -> Counter[Kind]:
    transformer = configured_entry(encoder).pooling != "average"
    precisions: dict[Kind, str] = {
        "extraction": _precision(config.extract, "tf32"),
        "tuning": _precision(config.tuning.fit, "32"),
        "random networks of the gain": "tf32",
    }
    hours = Counter[Kind]()
    for kind, macs in work.macs.items():
        precision = precisions.get(kind, "32")
        rate = macs_per_s or _measured(precision == "16")
        rate = rate or _STATED[precision] * (1 if transformer else _CONVOLUTIONS)
        hours[kind] += macs / rate / 3600  # type: ignore[assignment]  # Counter adds any numbers
    return hours


def _precision(settings: Mapping[str, Any], usual: str) -> str:
    return "16" if "16" in str(settings.get("trainer", {}).get("precision")) else usual


@cache
def _measured(bf16: bool) -> float | None:
    """Rate of a ViT-L/16 on this machine's GPU, if it has one."""
    if not torch.cuda.is_available():
        return None
    config = EncoderConfig("timm:vit_large_patch16_224", weights="random")
    (row,) = measure_costs(config, device="cuda", batch_size=64, bf16=bf16)
    return row.macs * row.patches_per_s


def _source(macs_per_s: float | None) -> str:
    if macs_per_s is not None:
        return f"at the stated {macs_per_s:.2g} multiply-accumulates per second"
    if torch.cuda.is_available():
        return "at the rate of a ViT-L/16 measured on this machine's GPU"
    return (
        "at stated rates of one H100 (1.8e14 multiply-accumulates per second in bf16, 9.1e13 in "
        "TF32, 2.0e13 in fp32; convolutions .3 of it): give --macs_per_s of your device"
    )


def _in_words(hours: Mapping[Kind, float]) -> str:
    parts = [
        f"{kind} {span(value).removeprefix('about ')}" for kind, value in hours.items() if value
    ]
    return f"{span(sum(hours.values()))} ({', '.join(parts)})"
