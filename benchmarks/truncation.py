"""Several depths in one pass, and less work when cut: `python -m benchmarks.truncation`."""

import torch
from torch import Tensor

from benchmarks.program import run
from benchmarks.result import Result, compare
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder

DEPTHS = ["layer1", "layer2", "layer3", "layer4"]


def measure(
    batch_size: int | None = None, side_px: int = 224, rounds: int = 12, device: str = "cpu"
) -> list[Result]:
    """The ratios of ResNet18; the batch lies in memory, so only the encoder is timed.

    Args:
        batch_size: Patches of the batch; by default 8 on the CPU and 256 on a GPU.
        side_px: Side of a patch.
        rounds: Rounds.
        device: cpu or cuda.
    """
    batch_size = batch_size or (256 if device == "cuda" else 8)
    shape = (batch_size, side_px, side_px, 3)
    patches = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    together = _resnet18(DEPTHS, device)
    alone = {depth: _resnet18([depth], device) for depth in DEPTHS}

    def one_pass(_round: int) -> None:
        _encode(together, patches)

    def separate(_round: int) -> None:
        for encoder in alone.values():
            _encode(encoder, patches)

    def deepest(_round: int) -> None:
        _encode(alone["layer4"], patches)

    def truncated(_round: int) -> None:
        _encode(alone["layer2"], patches)

    rows = (
        ("four depths in one pass vs four passes", 0.45, one_pass, separate),
        ("four depths in one pass vs the deepest", 1.05, one_pass, deepest),
        ("cut at layer2 vs the whole ResNet18", 0.75, truncated, deepest),
    )
    return [compare(*row, rounds, device=device, amount=batch_size, unit="patches") for row in rows]


def _resnet18(depths: list[str], device: str) -> PatchEncoder:
    return build_encoder(EncoderConfig("resnet18", weights="random", depths=depths)).to(device)


@torch.inference_mode()
def _encode(encoder: PatchEncoder, patches: Tensor) -> None:
    with torch.autocast("cuda", torch.float16, enabled=patches.is_cuda):
        encoder(patches)
    if patches.is_cuda:
        torch.cuda.synchronize(patches.device)


if __name__ == "__main__":
    run("truncation", measure, {"batch_size": 2, "side_px": 64, "rounds": 4})
