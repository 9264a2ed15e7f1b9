"""What AttentionMIL learns from: the loss by the paper's formula, and which patches it is shown."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from histotransfer_pl.data.bags import BagBatch
from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.outcomes.kinds import outcome_of
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.store.layout import feature_path
from histotransfer_pl.tasks.mil import AttentionMIL

LENGTHS = [2, 5, 3]
LABELS = [1, 0, 1]


@pytest.fixture
def batch() -> BagBatch:
    generator = torch.Generator().manual_seed(0)
    return BagBatch(
        features=torch.randn(sum(LENGTHS), 4, generator=generator),
        lengths=torch.tensor(LENGTHS),
        targets=torch.tensor(LABELS),
        indices=torch.arange(3),
        weights=torch.full((3,), 1 / 3),
    )


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_loss_of_a_slide_is_that_of_slide_and_patches_times_its_class_weight(
    batch: BagBatch, beta: float
) -> None:
    task = AttentionMIL(alpha=2.0, beta=beta, in_features=4, classes=["a", "b"])
    task.eval()
    task.class_weight.copy_(torch.tensor([0.25, 3.0]))
    output = task(batch.features, batch.lengths)
    found = task.losses(output, batch)  # (3,)
    for place, (label, bag) in enumerate(
        zip(LABELS, output.patch_logits.split(LENGTHS), strict=True)
    ):
        slide = -F.log_softmax(output.logits[place], -1)[label]
        patches = torch.stack([-F.log_softmax(logits, -1)[label] for logits in bag]).mean()
        expected = (0.25, 3.0)[label] * (2.0 * slide + beta * patches)
        torch.testing.assert_close(found[place], expected)


def test_each_loader_reads_its_part_and_only_training_samples_patches(tmp_path: Path) -> None:
    names = [f"s{number}" for number in range(6)]
    label = dict(zip(names, [0, 0, 1, 1, 1, 0], strict=True))
    table = {"slide_id": names, "patient_id": names, "label": list(label.values())}
    pd.DataFrame(table).to_csv(tmp_path / "c.csv", index=False)
    store = FeatureStore.open_or_create(tmp_path / "s.zarr", {"patch_px": 32, "mpp": 1.0})
    with store.writing():
        for name in names:
            values = np.ones((9, 4), np.float32)
            store.add_slide(name, None, 9).write(feature_path("e", "d"), values, {})
    data = FeatureDataModule(
        tmp_path / "s.zarr", tmp_path / "c.csv", n_folds=3, max_patches=5, batch_size=1
    )
    for stage in ("fit", "test", "predict"):
        data.setup(stage)
    loaders = {
        "train": data.train_dataloader(),
        "validation": data.val_dataloader(),
        "test": data.test_dataloader(),
    }
    for part, loader in loaders.items():
        batches = list(loader)
        read = {
            data.bags.loc[int(batch.indices[0]), "slide_id"]: int(batch.targets[0])
            for batch in batches
        }
        assert read == {name: label[name] for name in data.split.part(part)}
        assert {int(batch.lengths[0]) for batch in batches} == {5 if part == "train" else 9}
    everyone = list(data.predict_dataloader())
    assert [int(batch.lengths[0]) for batch in everyone] == [9] * 6


def test_scaling_is_that_of_the_training_patches_and_a_constant_feature_becomes_zero(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    names = [f"s{number}" for number in range(6)]
    table = {"slide_id": names, "patient_id": names, "label": [0, 0, 1, 1, 1, 0]}
    pd.DataFrame(table).to_csv(tmp_path / "c.csv", index=False)
    stored = {name: rng.normal(3, 2, (9, 4)).astype(np.float32) for name in names}
    store = FeatureStore.open_or_create(tmp_path / "s.zarr", {"patch_px": 32, "mpp": 1.0})
    with store.writing():
        for name, values in stored.items():
            values[:, 2] = 1000.1
            store.add_slide(name, None, 9).write(feature_path("e", "d"), values, {})
    data = FeatureDataModule(tmp_path / "s.zarr", tmp_path / "c.csv", n_folds=3, standardize=True)
    data.setup("fit")
    train = np.concatenate([stored[name] for name in data.split.train]).astype(np.float64)
    deviation = train.std(0)
    deviation[2] = 1
    mean, scale = data.training_statistics()
    np.testing.assert_allclose(mean, train.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scale, deviation, rtol=1e-6)
    model = AttentionMIL()
    model.build(4, outcome_of(data.target_spec), standardized=True)
    model.feature_mean.copy_(mean)
    model.feature_deviation.copy_(scale)
    seen: list[torch.Tensor] = []
    model.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for name in names:
        expected = (stored[name] - train.mean(0)) / deviation
        model(data.read_bag([name]), torch.tensor([9]))
        np.testing.assert_allclose(seen[-1], expected, rtol=1e-5, atol=1e-5)
        assert (seen[-1][:, 2] == 0).all()
