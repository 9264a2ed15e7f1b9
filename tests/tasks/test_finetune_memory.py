"""Memory of a training step depends on k, not on the slide; adapters take less of it."""

import pytest

from benchmarks.adapter_memory import measure as adapter_memory
from benchmarks.adapter_memory import step_bytes, tuner
from benchmarks.finetune_memory import measure
from histotransfer_pl.encoders.adapters import trainable_share
from histotransfer_pl.encoders.config import Method


def test_a_step_takes_the_same_memory_on_a_larger_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (result,) = measure(100, 1_000, k=8)
    assert result.met, str(result)
    assert result.ratio > 0.9


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("bf16", [False, True])
def test_bytes_counted_without_values_are_those_of_a_real_step(method: Method, bf16: bool) -> None:
    small = {"depth": 2, "embed_dim": 96, "num_heads": 3, "img_size": 64}
    counted, real = (
        step_bytes(tuner("uni", method, small, 8, checkpoints=True), 16, 64, bf16=bf16, real=real)
        for real in (False, True)
    )
    assert counted == pytest.approx(real, rel=0.1)


def test_adapters_of_a_small_vit_take_half_the_memory_of_full_tuning() -> None:
    small = {"depth": 6, "embed_dim": 384, "num_heads": 6, "img_size": 32}
    tasks = [tuner("uni", method, small, 8, checkpoints=True) for method in ("lora", "full")]
    assert trainable_share(tasks[0].encoder) < 0.03
    assert trainable_share(tasks[1].encoder) == 1
    adapters, full = (step_bytes(task, 8, 32) for task in tasks)
    assert adapters < 0.5 * full


@pytest.mark.slow
def test_adapters_of_a_vit_l_take_half_the_memory_and_a_hundredth_of_the_parameters() -> None:
    """At a few pixels only: weights, gradients and moments of Adam, the floor of full tuning."""
    memory, share = adapter_memory(k=8, px=32)
    assert memory.met, str(memory)
    assert share.met, str(share)
