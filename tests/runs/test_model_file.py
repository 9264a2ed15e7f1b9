"""A model file that cannot be written is one line."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors
import torch

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.runs import model_file


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    monkeypatch.setattr(model_file, "without_patients", lambda record: record)
    record = SimpleNamespace(train_patients=(), validation_patients=(), to_json=dict)
    model: Any = SimpleNamespace(
        record=record,
        id="x",
        head=torch.nn.Linear(1, 1),
        mean=torch.ones(1),
        deviation=torch.ones(1),
        covariates=None,
        calibration=None,
    )
    with pytest.raises(ConfigError, match=r"m\.safetensors cannot be written .*: free space"):
        model_file.save_model(model, tmp_path / "m.safetensors", "", None, {})
    assert not list(tmp_path.iterdir())
