"""What a depth costs: parameters, multiply-accumulates, measured speed and memory."""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.encoders.entry import EncoderEntry
from histotransfer_pl.encoders.memory import TensorMemory
from histotransfer_pl.encoders.networks import build_trunk


@dataclass(frozen=True)
class DepthCost:
    """Cost of an encoder cut at a depth, for one patch.

    Attributes:
        encoder: Name of the encoder.
        depth: Where it is cut.
        dim: Feature dimensions D.
        parameters: Parameters up to and with this depth.
        macs: Multiply-accumulates of its convolutions, linear layers and attention.
        input_px: Side of the patch that was counted.
    """

    encoder: str
    depth: str
    dim: int
    parameters: int
    macs: int
    input_px: int


@dataclass(frozen=True)
class MeasuredCost(DepthCost):
    """The same, with what was measured on this machine.

    Attributes:
        patches_per_s: Median over the repetitions.
        peak_mib: Weights, patches and activations of a batch, in MiB.
        batch_size: Patches of a batch.
        device: Name of the device.
        threads: Threads of the CPU.
        precision: Type of the arithmetic.
    """

    patches_per_s: float
    peak_mib: float
    batch_size: int
    device: str
    threads: int
    precision: str


def count_costs(entry: EncoderEntry, input_px: int | None = None) -> list[DepthCost]:
    """Count parameters and multiply-accumulates of every depth, without weights or computing.

    Args:
        entry: The encoder.
        input_px: Side of a patch; the entry's native one when None.
    """
    side = input_px or entry.native_px
    with torch.device("meta"):
        trunk = build_trunk(entry).eval()
        images = torch.empty(1, 3, side, side)
    stages, before, total = trunk.stages, 0, 0
    found: dict[str, tuple[int, int]] = {}  # dim and operations of the stage alone
    trunk.stages = tuple(stage for stage in stages if stage.depth not in trunk.equal_stages)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        for depth, output in trunk.steps(images):
            until, total = total, int(counter.get_total_flops()) - before
            found[depth] = trunk.vector(depth, output).shape[1], total - until
            before += 0 if trunk.incremental else total
    trunk.stages = stages
    counted: list[tuple[str, int, int]] = []
    operations, each = 0, (0, 0)
    for depth in trunk.depths:
        each = found.get(depth, each)  # equal stages cost what the one before them costs
        operations += each[1]
        counted.append((depth, each[0], operations))
    rows: list[DepthCost] = []
    for depth, dim, operations in reversed(counted):
        trunk.cut_after(depth)
        # a multiply-accumulate is two operations
        cost = DepthCost(entry.name, depth, dim, count_parameters(trunk), operations // 2, side)
        rows.append(cost)
    return rows[::-1]


def count_parameters(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def measure_costs(
    config: EncoderConfig,
    *,
    device: str = "cpu",
    batch_size: int = 16,
    bf16: bool = False,
    repetitions: int = 5,
) -> list[MeasuredCost]:
    """Measure speed and memory of every depth of a config on this machine.

    Args:
        config: The encoder; `weights: random` will do, for weights don't change the cost.
        device: A torch device.
        batch_size: Patches of a batch.
        bf16: Whether to use bfloat16 autocast.
        repetitions: Batches of which the median time counts, after one to warm up.
    """
    encoder = build_encoder(config).to(device)
    side = config.input_px or encoder.entry.native_px
    counted = [row for row in count_costs(encoder.entry, side) if row.depth in encoder.depths]
    patches = torch.randint(0, 256, (batch_size, side, side, 3), dtype=torch.uint8, device=device)
    rows: list[MeasuredCost] = []
    for row in reversed(counted):
        encoder.cut_after(row.depth)
        with torch.inference_mode(), torch.autocast(patches.device.type, torch.bfloat16, bf16):
            seconds = _median_seconds(encoder, patches, repetitions)
            peak = _peak_bytes(encoder, patches)
        rows.append(
            MeasuredCost(
                **asdict(row),
                patches_per_s=batch_size / seconds,
                peak_mib=peak / 2**20,
                batch_size=batch_size,
                device=_device_name(patches.device),
                threads=torch.get_num_threads(),
                precision="bf16" if bf16 else "fp32",
            )
        )
    return rows[::-1]


def cost_table(rows: Iterable[DepthCost]) -> pd.DataFrame:
    """Rows as a table, ready for `to_csv(path, index=False)`."""
    return pd.DataFrame([asdict(row) for row in rows])


def _median_seconds(encoder: PatchEncoder, patches: Tensor, repetitions: int) -> float:
    seconds: list[float] = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        encoder(patches)
        if patches.is_cuda:
            torch.cuda.synchronize(patches.device)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[repetitions // 2]


def _peak_bytes(encoder: PatchEncoder, patches: Tensor) -> int:
    if patches.is_cuda:
        torch.cuda.reset_peak_memory_stats(patches.device)
        encoder(patches)
        return int(torch.cuda.max_memory_allocated(patches.device))
    memory = TensorMemory()
    with memory:
        encoder(patches)
    held = [*encoder.parameters(), *encoder.buffers(), patches]
    return memory.peak + sum(tensor.nbytes for tensor in held)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
