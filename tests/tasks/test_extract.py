"""The extraction's network side: it asks the device nothing, and fits its memory."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from histotransfer_pl.data.patch_batch import PatchBatch
from histotransfer_pl.data.patch_source import ReadCost
from histotransfer_pl.encoders.encoder import PatchEncoder
from histotransfer_pl.tasks.extract import FeatureExtractor, default_precision


class Calls(TorchDispatchMode):
    """Names of the operations that a device would be asked for."""

    names: list[str]

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def task() -> FeatureExtractor:
    return FeatureExtractor("timm:test_resnet", "random", "all").eval()


def _batch(task: FeatureExtractor, n: int = 10) -> PatchBatch:
    patches = torch.randint(0, 256, (n, 64, 64, 3), dtype=torch.uint8)
    places = torch.zeros(n, dtype=torch.long)
    return PatchBatch(patches, places, torch.arange(n), task.arrays, [], ReadCost())


def test_a_step_never_waits_for_the_device(task: FeatureExtractor) -> None:
    """Reading a value back (`item`, `nonzero`) would empty the device's queue in every batch."""
    with torch.inference_mode(), Calls() as calls:  # type: ignore[no-untyped-call]
        calls.names = []
        found = task.predict_step(_batch(task), 0)
    assert set(found) == set(task.arrays)
    waiting = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "masked_select")
    assert calls.names
    assert not [name for name in calls.names if any(word in name for word in waiting)]


def test_a_batch_that_does_not_fit_is_encoded_in_pieces(
    task: FeatureExtractor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    batch = _batch(task)
    with torch.inference_mode():
        expected = task.predict_step(batch, 0)
    forward, sizes = PatchEncoder.forward, []

    def small(self: PatchEncoder, patches: Tensor) -> dict[str, Tensor]:
        sizes.append(len(patches))
        if len(patches) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, patches)

    monkeypatch.setattr(PatchEncoder, "forward", small)
    with torch.inference_mode():
        found = task.predict_step(batch, 0)
        assert sizes == [10, 5, 3, 3, 3, 1]
        task.predict_step(batch, 1)
    assert sizes[6:] == [3, 3, 3, 1]  # known from now on
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-5)
    assert "does not hold 5 patches: encoding 3 at a time" in caplog.text


def test_a_single_patch_that_does_not_fit_is_an_error(
    task: FeatureExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(self: PatchEncoder, patches: Tensor) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PatchEncoder, "forward", none)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        task.predict_step(_batch(task, 2), 0)


def test_half_precision_only_where_a_gpu_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [default_precision(name) for name in ("auto", "gpu", "cuda")] == ["16-mixed"] * 3
    assert default_precision("cpu") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_precision("auto") is None
