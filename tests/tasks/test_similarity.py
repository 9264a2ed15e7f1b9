"""RepresentationSimilarity against plain CKA of features computed one network at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from histotransfer_pl.analysis.cka import linear_cka
from histotransfer_pl.data.patch_sample import PatchSampleDataModule, draw_batches
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.errors import CohortError, ConfigError
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.tasks.similarity import ComparedEncoder, RepresentationSimilarity, random_twin

NAME = "timm:test_resnet"
FIRST = ComparedEncoder(NAME, weights="random", seed=3, depths=["stem", "layer2"])
SECOND = ComparedEncoder(NAME, weights="random", seed=4, depths=["layer1", "layer2", "layer4"])


@pytest.fixture
def patches() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (24, 32, 32, 3), dtype=torch.uint8, generator=generator)


@torch.inference_mode()
def test_one_batch_is_the_debiased_cka_of_features_and_maps(patches: Tensor) -> None:
    task = RepresentationSimilarity(FIRST, SECOND).eval()
    task.compare(patches)
    found = task.compute()
    first, second = build_encoder(FIRST), build_encoder(SECOND)
    for space, x, y in (
        ("pooled", first(patches), second(patches)),
        ("flattened", first.feature_maps(patches), second.feature_maps(patches)),
    ):
        expected = [[linear_cka(a, b, debiased=True) for b in y.values()] for a in x.values()]
        result = found[space]  # type: ignore[index]
        np.testing.assert_allclose(result.pair.numpy(), expected, atol=1e-4)


@torch.inference_mode()
def test_controls_are_one_for_itself_and_that_of_a_random_twin(patches: Tensor) -> None:
    task = RepresentationSimilarity(FIRST, SECOND).eval()
    task.compare(patches)
    result = task.compute()["pooled"]
    assert result.itself is not None
    assert result.random is not None
    np.testing.assert_allclose(result.itself.numpy(), 1, atol=1e-5)
    twin = build_encoder(random_twin(FIRST, SECOND))
    assert twin.provenance["weights_sha256"] == "random:0"
    x, y = build_encoder(FIRST)(patches), twin(patches)
    expected = [linear_cka(x[depth], y[depth], debiased=True) for depth in x]
    np.testing.assert_allclose(result.random.numpy(), expected, atol=1e-4)


@torch.inference_mode()
def test_the_control_with_itself_sees_a_network_that_mixes_patches(patches: Tensor) -> None:
    task = RepresentationSimilarity(FIRST, SECOND).eval()
    task.first.trunk.network.get_submodule("layer1").register_forward_hook(
        lambda module, given, out: out.roll(1, 0)
    )
    task.compare(patches)
    result = task.compute()["pooled"]
    assert result.itself is not None
    assert result.itself[0] == pytest.approx(1, abs=1e-5)
    assert result.itself[1] < 0.7


@torch.inference_mode()
def test_dimensions_are_those_of_each_space(patches: Tensor) -> None:
    task = RepresentationSimilarity(FIRST, SECOND).eval()
    task.compare(patches)
    found = task.compute()
    maps = task.first.feature_maps(patches[:1])
    assert found["pooled"].dims_first == task.first.dims
    assert found["flattened"].dims_first == {d: m[0].numel() for d, m in maps.items()}
    assert list(found["pooled"].dims_second) == SECOND.depths


@torch.inference_mode()
def test_batches_add_up(patches: Tensor) -> None:
    """Two ranks with a batch each are the sum of their states."""
    whole, left, right = (
        RepresentationSimilarity(FIRST, SECOND, flattened=False).eval() for _ in range(3)
    )
    for batch in (patches[:12], patches[12:]):
        whole.compare(batch)
    left.compare(patches[:12])
    right.compare(patches[12:])
    own, other = left._metric("pooled"), right._metric("pooled")
    for state in ("hsic_xy", "hsic_xx", "hsic_yy", "patches"):
        setattr(own, state, getattr(own, state) + getattr(other, state))
    expected = whole.compute()["pooled"].pair
    np.testing.assert_allclose(left.compute()["pooled"].pair.numpy(), expected.numpy(), atol=1e-6)
    assert whole.n_patches == 24


def test_only_random_networks_get_new_statistics(patches: Tensor, tmp_path: Path) -> None:
    saved = build_encoder(ComparedEncoder(NAME, weights="random", seed=9))
    saved.save(tmp_path / "w.safetensors", {})
    kept = ComparedEncoder(NAME, weights=str(tmp_path / "w.safetensors"), alias="kept")
    task = RepresentationSimilarity(kept, SECOND)
    task.calibrate(iter([patches]))
    assert task.reestimated == {SECOND.store_name: 24, "timm_test_resnet-random0": 24}
    for module in task.first.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None
            assert not module.running_mean.any()
    first_norm = next(m for m in task.second.modules() if isinstance(m, _BatchNorm))
    assert first_norm.running_mean is not None
    assert first_norm.running_mean.any()


def test_trainer_compares_every_patch_of_the_sample(
    tuning_cohort: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = PatchSampleDataModule(Path("s.zarr"), n_patches=100, batch_size=30)
    task = RepresentationSimilarity(FIRST, SECOND, flattened=False)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.test(task, data, verbose=False)
    assert task.n_patches == 100
    assert task.results["pooled"].pair.shape == (2, 3)
    assert "only 100 patches of 12 slides: below 1000" in caplog.text


def test_part_is_the_test_part_of_fit_and_other_patches_stay_out(tuning_cohort: Path) -> None:
    from histotransfer_pl.data.features import FeatureDataModule

    settings = {"fold": 1, "n_folds": 3}
    data = PatchSampleDataModule(Path("s.zarr"), Path("c.csv"), part="test", **settings)  # type: ignore[arg-type]
    data.setup("test")
    fit = FeatureDataModule(Path("s.zarr"), Path("c.csv"), **settings)  # type: ignore[arg-type]
    fit.setup("test")
    assert {item.entry.slide_id for item in data.work} == set(fit.split.test)
    assert data.patients == set(fit.patients("test"))
    assert data.drawn == 12 * len(fit.split.test)


def test_sampled_patches_are_those_at_their_coordinates(tuning_cohort: Path) -> None:
    from histotransfer_pl.slides.reader import open_slide

    data = PatchSampleDataModule(Path("s.zarr"), n_patches=40, batch_size=16, seed=5)
    data.setup("test")
    store = FeatureStore.open(Path("s.zarr"))
    for batch in data.test_dataloader():
        for patch, place, row in zip(batch.patches, batch.slides, batch.rows, strict=True):
            entry = data.work[int(place)].entry
            x, y = store.slide(entry.slide_id).coords()[int(row)]
            with open_slide(entry.path) as reader:
                expected = reader.read_patch(int(x), int(y), data.grid.patch_px, data.grid.mpp)
            np.testing.assert_array_equal(patch.numpy(), expected)


def test_draw_takes_each_patch_once_and_follows_the_seed() -> None:
    counts = [5, 0, 7, 20]
    batches = draw_batches(counts, 1000, 10, seed=1)
    pieces = [piece for batch in batches for piece in batch]
    assert sorted(pieces) == [(s, r, r + 1) for s, n in enumerate(counts) for r in range(n)]
    assert [len(batch) for batch in batches] == [10, 10, 10, 2]
    assert draw_batches(counts, 1000, 10, seed=1) == batches
    assert draw_batches(counts, 1000, 10, seed=2) != batches
    assert sum(map(len, draw_batches(counts, 9, 4, seed=1))) == 9


def test_what_cannot_be_compared_is_refused(tuning_cohort: Path) -> None:
    with pytest.raises(ConfigError, match="first and second are the same encoder"):
        RepresentationSimilarity(FIRST, FIRST)
    with pytest.raises(ConfigError, match="data.part needs the split"):
        PatchSampleDataModule(Path("s.zarr"), part="test")
    with pytest.raises(ConfigError, match="batch_size is 3"):
        PatchSampleDataModule(Path("s.zarr"), batch_size=3)
    Path("other.csv").write_text("slide_id,patient_id,label\nx,x,0\n")
    with pytest.raises(CohortError, match="none of the 1 slides asked for has patches"):
        PatchSampleDataModule(Path("s.zarr"), Path("other.csv")).setup("test")


def test_patches_of_all_ranks_are_counted() -> None:
    task = RepresentationSimilarity(
        ComparedEncoder("timm:test_resnet", "random", seed=0),
        ComparedEncoder("timm:test_resnet", "random", seed=1),
        controls=False,
    ).eval()
    # as if a second rank had seen as much
    as_two: dict[str, Any] = {
        "distributed_available_fn": lambda: True,
        "dist_sync_fn": lambda value, group: [value, value],
    }
    for metric in task.metrics.values():
        vars(metric).update(as_two)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        task.compare(torch.randint(0, 256, (8, 32, 32, 3), generator=generator, dtype=torch.uint8))
        task.compute()
    assert task.n_patches == 16
