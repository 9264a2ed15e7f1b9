"""The model without our datamodule: a Trainer, a DataLoader of bags, a checkpoint."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from histotransfer_pl import AttentionMIL, load_model, pack
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.models.bag_head import BagHead

CLASSES = ["normal", "tumour"]


@pytest.fixture
def bags() -> list[tuple[Tensor, int]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(5 + i, 6, generator=generator) + i % 2, i % 2) for i in range(8)]


def trainer(folder: Path) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )


@pytest.mark.parametrize("batched", [True, False])
def test_a_plain_trainer_trains_tests_and_loads_it(
    bags: list[tuple[Tensor, int]], tmp_path: Path, batched: bool
) -> None:
    own: dict[str, Any] = {"batch_size": 4, "collate_fn": pack} if batched else {}
    loader: DataLoader[Any] = DataLoader(bags, **own)  # type: ignore[arg-type]
    model = AttentionMIL(in_features=6, classes=CLASSES)
    run = trainer(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the number of workers
        run.fit(model, loader, loader)
        run.test(model, loader, verbose=False)
    assert 0 <= run.callback_metrics["test/auroc"] <= 1
    run.save_checkpoint(tmp_path / "m.ckpt")
    again = AttentionMIL.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
    features, lengths = bags[3][0], torch.tensor([len(bags[3][0])])
    torch.testing.assert_close(again(features, lengths).logits, model(features, lengths).logits)
    opened = load_model(tmp_path / "m.ckpt")
    expected = model(features, lengths).logits.softmax(-1)[0].detach().double().numpy()
    np.testing.assert_allclose(opened.predict(features).scores, expected, atol=1e-6)
    assert opened.classes == tuple(CLASSES)


def test_without_sizes_it_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match="give AttentionMIL in_features and classes"):
        AttentionMIL()(torch.zeros(2, 3), torch.tensor([2]))
    with pytest.raises(ConfigError, match="together, or neither"):
        AttentionMIL(in_features=3)


def test_features_of_another_width_are_refused(tmp_path: Path) -> None:
    model = AttentionMIL(in_features=6, classes=CLASSES)
    run = trainer(tmp_path)
    run.strategy.connect(model)
    run.save_checkpoint(tmp_path / "m.ckpt")
    with pytest.raises(ConfigError, match=r"shape \(4, 5\), expected \(patches, 6\)"):
        load_model(tmp_path / "m.ckpt").predict(np.zeros((4, 5)))


def test_a_head_of_torchmil_takes_its_attention_along() -> None:
    torchmil = pytest.importorskip("torchmil.models")
    head = BagHead(
        6,
        2,
        module="torchmil.models.ABMIL",
        arguments={"in_shape": ["in_features"], "att_dim": 8},
        attention="return_att",
    )
    features = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    output = head(features, torch.tensor([4, 3]))
    assert isinstance(head.module, torchmil.ABMIL)
    for place, bag in enumerate(features.split([4, 3])):
        logit, attention = head.module(bag[None], return_att=True)
        torch.testing.assert_close(output.logits[place], torch.stack([torch.tensor(0.0), logit[0]]))
        start = 4 * place
        own = output.attention[start : start + len(bag)]
        torch.testing.assert_close(own, attention[0].softmax(0))
    model = AttentionMIL(
        head=lambda d, c: BagHead(d, c, module="torchmil.models.ABMIL", arguments=head_arguments()),
        in_features=6,
        classes=CLASSES,
    )
    assert model(features, torch.tensor([7])).logits.shape == (1, 2)


def head_arguments() -> dict[str, object]:
    return {"in_shape": ["in_features"]}


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("torch.nn.Nothing", {}, "no class 'torch.nn.Nothing'"),
        ("torch.nn.Linear", {"wide": 3}, "does not take"),
        ("collections.OrderedDict", {}, "is no torch.nn.Module"),
        ("torch.nn.Identity", {}, r"gave logits of shape \(1, 3, 6\)"),
    ],
)
def test_a_module_that_is_no_bag_network_is_refused(
    module: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        BagHead(6, 2, module=module, arguments=arguments)
