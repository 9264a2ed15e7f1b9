"""Every program's way on a GPU runs to its end where the CPU plays the GPU."""

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.strategies import Strategy

from benchmarks.__main__ import GPU_FIRST

TINY: dict[str, dict[str, Any]] = {
    "extraction": {"patches": 16, "slides": 2, "patch_px": 64, "encoder": "timm:test_resnet"},
    "peers": {"slides": 1, "patches": 4, "patch_px": 64},
    "mil_epoch": {"bags": 10, "largest": 600, "width": 16, "epochs": 2},
    "topk_step": {"k": 2, "patch_px": 32, "encoder": "timm:test_resnet", "epochs": 2},
    "stacked_folds": {"patches": (20,), "width": 16},
    "truncation": {"batch_size": 2, "side_px": 64},
    "cka_cost": {"encoder": "timm:test_resnet", "patches": 4, "batch_size": 4, "patch_px": 64},
    "encoder_precision": {
        "encoders": ("timm:test_resnet", "timm:test_vit"),
        "patches": 2,
        "patch_px": 160,
    },
}

ELSEWHERE = {"gpu_jobs"}
"""Starts processes, in which nothing plays the GPU; tests/benchmarks/test_gpu_jobs.py."""


class PlayedStream:
    """A stream on which everything has happened already."""

    def __init__(self, *_: object, **__: object) -> None:
        self.waited = 0

    def wait_event(self, event: object) -> None:
        self.waited += 1

    def record(self, *_: object) -> None:
        return

    def synchronize(self) -> None:
        return


@pytest.fixture
def played_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """A torch that takes "cuda" for the CPU, and a Lightning that finds one such device."""
    counts = {"cuda": 0}

    def here(value: object) -> object:
        if not isinstance(value, str | torch.device) or not str(value).startswith("cuda"):
            return value
        counts["cuda"] += 1
        return torch.device("cpu")

    def moved(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **given: Any) -> Any:
            names = [name for name in given if name != "pin_memory"]
            return make(
                args[0], *map(here, args[1:]), **{name: here(given[name]) for name in names}
            )

        return made

    for name in ("empty", "full", "ones", "randint", "randn", "tensor", "zeros", "arange"):
        monkeypatch.setattr(torch, name, moved(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "to", moved(torch.Tensor.to))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda _: None)

    # Lightning makes its modules within the device.
    monkeypatch.setattr(Strategy, "tensor_init_context", lambda *_, **__: nullcontext())

    played = {
        "synchronize": lambda *_: None,
        "current_device": lambda: 0,
        "current_stream": PlayedStream,
        "Stream": PlayedStream,
        "Event": PlayedStream,
        "stream": lambda _: nullcontext(),
        "mem_get_info": lambda _: (1 << 30, 1 << 30),
    }
    for name, value in played.items():
        monkeypatch.setattr(torch.cuda, name, value)
    accelerator: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "auto_device_count": lambda: 1,
        "parse_devices": lambda _: [0],
        "setup": lambda *_: None,
        "setup_device": lambda *_: None,
        "teardown": lambda *_: None,
    }
    for name, function in accelerator.items():
        wrapped: Any = function if name.startswith(("setup", "tear")) else staticmethod(function)
        monkeypatch.setattr(CUDAAccelerator, name, wrapped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that autocast has no CUDA, as programs do
        yield counts


def test_each_program_for_a_gpu_has_its_tiny_sizes() -> None:
    assert list(TINY) == [name for name in GPU_FIRST if name not in ELSEWHERE]
    for name in GPU_FIRST:
        assert "device" in inspect.signature(import_module(f"benchmarks.{name}").measure).parameters


@pytest.mark.parametrize("name", TINY)
def test_a_program_runs_to_its_end(
    name: str, played_cuda: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    program = import_module(f"benchmarks.{name}")
    rounds = {"rounds": 2} if "rounds" in inspect.signature(program.measure).parameters else {}
    results = program.measure(device="cuda", **TINY[name], **rounds)
    assert results
    assert {result.device for result in results} == {"cuda"}
    measured = [result for result in results if not result.left_out]  # some lack real weights
    # The CPU rounds nothing where it plays, so features are off by nothing.
    assert all(result.ratio > 0 or result.unit == "norm / norm" for result in measured)
    assert measured
    assert played_cuda["cuda"] > 0
