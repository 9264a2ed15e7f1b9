"""Memory of tuning a ViT-L with adapters and as a whole: `python -m benchmarks.adapter_memory`.

Nothing is computed: the step of `TopKFineTuner` runs on tensors without values, whose bytes are
counted as those of real ones would be: on a small network to a tenth (a test compares both).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.program import run
from benchmarks.result import Result
from histotransfer_pl.encoders.adapters import LoraSettings, trainable_share
from histotransfer_pl.encoders.catalogue import configured_entry
from histotransfer_pl.encoders.config import EncoderConfig, Method
from histotransfer_pl.encoders.encoder import PatchEncoder
from histotransfer_pl.encoders.memory import TensorMemory
from histotransfer_pl.encoders.networks import build_trunk
from histotransfer_pl.records.encoder import WeightsRef
from histotransfer_pl.tasks.finetune import TopKFineTuner
from histotransfer_pl.tasks.optimization import choose_trained


def measure(
    k: int = 64, chunk_patches: int = 4, px: int = 224, bf16: bool = True, checkpoints: bool = True
) -> list[Result]:
    """Peak bytes of weights, gradients, optimizer and activations of a step on k patches."""
    sizes, shares = {}, {}
    for method in ("full", "lora"):
        task = tuner("uni", method, {}, chunk_patches, checkpoints=checkpoints)
        shares[method] = trainable_share(task.encoder)
        sizes[method] = step_bytes(task, k, px, bf16=bf16)
    setting = f"k {k}, chunks of {chunk_patches}, {'bf16' if bf16 else 'fp32'}"
    notes = f"{sizes['lora'] / 2**30:.2f} against {sizes['full'] / 2**30:.2f} GiB, {setting}"
    return [
        Result(
            "peak memory of tuning a ViT-L, adapters by full",
            *(sizes["lora"] / sizes["full"], 0.5, "bytes / bytes"),
            notes=f"{notes}, activations {'computed again' if checkpoints else 'kept'}",
        ),
        Result(
            "parameters of a ViT-L that adapters train, by all",
            *(shares["lora"], 0.01, "parameters / parameters"),
        ),
    ]


def tuner(
    name: str,
    method: Method,
    model_args: Mapping[str, Any],
    chunk_patches: int,
    *,
    checkpoints: bool,
) -> TopKFineTuner:
    """The task of fine-tuning with an encoder that has shapes and no values."""
    task = TopKFineTuner(
        Path("stage1"),
        name,
        "random",
        chunk_patches=chunk_patches,
        checkpoint_activations=checkpoints,
    )
    entry = configured_entry(EncoderConfig(name, model_args=dict(model_args)))
    with torch.device("meta"):
        trunk = build_trunk(entry)
        task.depth = trunk.depths[-1]
        weights = WeightsRef("random", seed=0)
        task.encoder = PatchEncoder(name, entry, trunk, depths=[task.depth], weights=weights)
        choose_trained(task.encoder, method, None, 2, LoraSettings())
    return task.train()


def step_bytes(
    task: TopKFineTuner, k: int, px: int, *, bf16: bool = False, real: bool = False
) -> int:
    """Peak bytes of a training step of the encoder with Adam, on k patches."""
    if real:
        return _step_bytes(task, k, px, bf16=bf16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        return _step_bytes(task, k, px, bf16=bf16)


def _step_bytes(task: TopKFineTuner, k: int, px: int, *, bf16: bool) -> int:
    task.encoder.to_empty(device="cpu")
    patches = torch.zeros(k, px, px, 3, dtype=torch.uint8)
    optimizer = torch.optim.Adam([p for p in task.encoder.parameters() if p.requires_grad])
    with TensorMemory() as memory:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = task.encode(patches).square().mean()
        loss.backward()
        optimizer.step()
    return int(memory.peak + sum(p.nbytes for p in [*task.encoder.parameters(), patches]))


if __name__ == "__main__":
    run("adapter_memory", measure, {"k": 8, "px": 32})
