"""CKA of all layers against the forward passes it needs: `python -m benchmarks.cka_cost`."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.program import run
from benchmarks.result import Result, compare
from histotransfer_pl.tasks.heap import keep_freed_memory
from histotransfer_pl.tasks.similarity import ComparedEncoder, RepresentationSimilarity


def measure(
    encoder: str = "timm:vit_tiny_patch16_224",
    patches: int | None = None,
    patch_px: int = 224,
    batch_size: int | None = None,
    rounds: int = 2,
    device: str = "cpu",
) -> list[Result]:
    """Both networks and the CKA of each layer with each, by both networks alone.

    The ratio does not depend on the number of patches, only on those of a batch.

    Args:
        encoder: Name of the encoder, compared with itself under another seed, at all depths.
        patches: Patches; by default 64 on the CPU and 4,096 on a GPU.
        patch_px: Side of a patch.
        batch_size: Patches of a batch; by default 64 on the CPU and 256 on a GPU.
        rounds: Rounds.
        device: cpu or cuda.
    """
    keep_freed_memory()
    on_gpu = device == "cuda"
    patches = patches or (4_096 if on_gpu else 64)
    batch_size = batch_size or (256 if on_gpu else 64)
    shape = (batch_size, patch_px, patch_px, 3)
    batches = [
        torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        for _ in range(max(1, patches // batch_size))
    ]
    results = []
    for flattened in (False, True):
        task = RepresentationSimilarity(
            ComparedEncoder(encoder, "random", seed=0),
            ComparedEncoder(encoder, "random", seed=1),
            flattened=flattened,
            controls=False,
        ).to(device)
        layers = len(task.first.depths)
        space = "pooled and flattened" if flattened else "pooled"
        name = f"CKA of {layers} x {layers} layers, {space}, vs the forward passes of both networks"
        results.append(
            compare(
                name,
                1.3,
                partial(compare_networks, task, batches),
                partial(forward, task, batches),
                rounds,
                notes=f"{encoder}, {len(batches)} batches of {batch_size} patches, {patch_px} px",
                device=device,
                amount=sum(map(len, batches)),
                unit="patches",
            )
        )
    return results


@torch.inference_mode()
def compare_networks(task: RepresentationSimilarity, batches: list[Tensor], _round: int) -> None:
    with torch.autocast(task.device.type, torch.bfloat16, enabled=task.device.type == "cuda"):
        for batch in batches:
            task.compare(batch)
    task.compute()


@torch.inference_mode()
def forward(task: RepresentationSimilarity, batches: list[Tensor], _round: int) -> None:
    with torch.autocast(task.device.type, torch.bfloat16, enabled=task.device.type == "cuda"):
        for batch in batches:
            task.first(batch)
            task.second(batch)
    if task.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    run("cka_cost", measure, {"patches": 16, "batch_size": 8, "rounds": 2})
