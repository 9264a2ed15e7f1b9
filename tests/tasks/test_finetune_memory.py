"""Memory of a training step depends on k, not on the slide."""

import pytest

from benchmarks.finetune_memory import measure


def test_a_step_takes_the_same_memory_on_a_larger_slide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (result,) = measure(100, 1_000, k=8)
    assert result.met, str(result)
    assert result.ratio > 0.9
