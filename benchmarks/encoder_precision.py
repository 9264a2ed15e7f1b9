"""Arithmetic of the encoder, speed and agreement: `python -m benchmarks.encoder_precision`."""

import copy
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.material import painted
from benchmarks.program import run
from benchmarks.result import Result, from_times, left_out, rounds_in_time, seconds
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.tasks.heap import keep_freed_memory


@dataclass(frozen=True)
class Arithmetic:
    """How an encoder computes.

    Attributes:
        name: What the rows call it.
        autocast: Type to which autocast turns what bears it.
        tf32: Whether what stays in float32 may be rounded to TF32, as in extraction on a GPU.
        half: Whether the weights themselves are fp16.
        compiled: Whether torch.compile makes the kernels.
        error: Goal for the relative error of its features; not measured when None.
    """

    name: str
    autocast: torch.dtype | None = None
    tf32: bool = True
    half: bool = False
    compiled: bool = False
    error: float | None = None


FLOAT32 = Arithmetic("float32", tf32=False)
TF32 = Arithmetic("TF32", error=0.02)
BF16 = Arithmetic("bf16 autocast", torch.bfloat16, error=0.1)
FP16 = Arithmetic("fp16 autocast", torch.float16, error=0.02)
HALF = Arithmetic("fp16 weights", half=True)
COMPILED = Arithmetic("fp16 autocast with torch.compile", torch.float16, compiled=True)

VIT = "timm:vit_large_patch16_224"
ENCODERS = ("resnet18", "resnet50", "densenet121", VIT)
REAL = {
    "tf_efficientnet_lite0": "tf_efficientnet_lite0.imagenet.safetensors",
    "mobilenetv2_100": "mobilenetv2_100.imagenet_nohead.safetensors",
}
"""Encoders whose features are compared, and their files in the folder of weights."""


def measure(
    encoders: tuple[str, ...] | None = None,
    patches: int | None = None,
    patch_px: int = 224,
    rounds: int = 6,
    device: str = "cpu",
    *,
    compiled: bool = False,
) -> list[Result]:
    """Patches per second in each arithmetic by those in float32, and how far its features are off.

    The batch lies on the device; weights are random for speed, and real for agreement, which needs
    them in the folder `weights` of HISTOTRANSFER_DATA.

    Args:
        encoders: Whose speed is measured; by default ResNet18 on the CPU, four on a GPU.
        patches: Patches of the batch; by default 4 on the CPU and 256 on a GPU.
        patch_px: Side of a patch.
        rounds: Rounds.
        device: cpu or cuda.
        compiled: Measure torch.compile too, for the first encoder; it compiles for a minute.
    """
    keep_freed_memory()
    on_gpu = device == "cuda"
    # A CPU has no TF32, and its extraction never takes fp16 weights.
    ways = [TF32, BF16, FP16, HALF] if on_gpu else [BF16, FP16]
    batch = paint(patches or (256 if on_gpu else 4), patch_px).to(device)
    rows: list[Result] = []
    for number, name in enumerate(encoders or (ENCODERS if on_gpu else ENCODERS[:1])):
        extra = [COMPILED] if compiled and not number else []
        rows += speeds(name, [*ways, *extra], batch, rounds, device)
    folder = Path(os.environ.get("HISTOTRANSFER_DATA", "../shared/data")) / "weights"
    compared = [way for way in ways if way.error is not None]
    for name, file in REAL.items():
        rows += errors(name, folder / file, compared, batch, device)
    return rows


def paint(patches: int, patch_px: int) -> Tensor:
    """Neighbouring patches (B, P, P, 3), uint8, of a painted section."""
    columns = math.ceil(patches**0.5)
    side = columns * patch_px
    pixels = painted(max(2688, side))[:side, :side]
    tiles = pixels.reshape(columns, patch_px, columns, patch_px, 3).swapaxes(1, 2)
    return torch.from_numpy(np.ascontiguousarray(tiles.reshape(-1, *tiles.shape[2:])[:patches]))


def speeds(
    name: str, ways: Sequence[Arithmetic], batch: Tensor, rounds: int, device: str
) -> list[Result]:
    """A row for each arithmetic, against float32 in the same rounds."""
    plain = build_encoder(EncoderConfig(name, weights="random")).to(device)
    networks = {way: prepared(plain, way) for way in (FLOAT32, *ways)}
    times: dict[Arithmetic, list[float]] = {way: [] for way in networks}
    for way, network in networks.items():  # kernels are chosen, or compiled
        encode(network, batch, way, device)
    for number in rounds_in_time(rounds):
        order = list(networks.items())
        for way, network in order if number % 2 else order[::-1]:
            times[way].append(seconds(partial(encode, network, batch, way, device)))
    return [
        from_times(
            f"{name} in {way.name} vs float32 without TF32",
            *(1.0, times[way], times[FLOAT32]),
            speedup=True,
            notes=f"batches of {len(batch)} patches, {batch.shape[1]} px, on the device",
            device=device,
            amount=len(batch),
            unit="patches",
        )
        for way in ways
    ]


def errors(
    name: str, file: Path, ways: Sequence[Arithmetic], batch: Tensor, device: str
) -> list[Result]:
    """A row for each arithmetic: the relative error of features, of the depth where it is worst."""
    goals = {
        way: (f"relative error of {way.name} features, worst depth, {name}", way.error or 0)
        for way in ways
    }
    if not file.is_file():
        return [
            left_out(*goal, "needs its weights: set HISTOTRANSFER_DATA") for goal in goals.values()
        ]
    network = build_encoder(EncoderConfig(name, weights=str(file), depths="all")).to(device)
    exact = encode(network, batch, FLOAT32, device)
    rows: list[Result] = []
    for way, goal in goals.items():
        found = encode(network, batch, way, device)
        far = {depth: relative_error(found[depth], exact[depth]) for depth in exact}
        notes = ", ".join(f"{depth} {value:.2g}" for depth, value in far.items())
        row = (*goal, f"{len(batch)} painted patches: {notes}")
        rows.append(
            Result(
                row[0], max(far.values()), row[1], unit="norm / norm", notes=row[2], device=device
            )
        )
    return rows


def prepared(plain: PatchEncoder, way: Arithmetic) -> PatchEncoder:
    """The encoder itself, or a copy where its weights or kernels are others."""
    if not (way.half or way.compiled):
        return plain
    network = copy.deepcopy(plain)
    if way.compiled:
        network.compile()
    return network.half() if way.half else network


@torch.inference_mode()
def encode(network: PatchEncoder, batch: Tensor, way: Arithmetic, device: str) -> dict[str, Tensor]:
    """Features (B, D) of each depth as float32, after the device has computed them."""
    kind = way.autocast
    with rounding(tf32=way.tf32), torch.autocast(device, kind, enabled=kind is not None):
        found = {depth: values.float() for depth, values in network(batch).items()}
    if device == "cuda":
        torch.cuda.synchronize()
    return found


@contextmanager
def rounding(*, tf32: bool) -> Iterator[None]:
    """Allow TF32 or not, in matrices and convolutions."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference by the norm of what is exact, over all patches."""
    return float((found - exact).norm() / exact.norm())


if __name__ == "__main__":
    run("encoder_precision", measure, {"patches": 2, "patch_px": 64, "rounds": 2})
