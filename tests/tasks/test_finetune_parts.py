"""The pieces of fine-tuning: gradients, frozen parts, schedules, memory messages, open bags."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from histotransfer_pl.data.bag_pieces import BagPieces
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.errors import ConfigError, EncoderError, SlideError
from histotransfer_pl.tasks.finetune import TopKFineTuner
from histotransfer_pl.tasks.open_bags import OpenBags, WholeBags, fill_unreadable
from histotransfer_pl.tasks.optimization import (
    BatchNormMode,
    freeze_blocks,
    lr_factor,
    parameter_groups,
    set_batchnorm,
)
from histotransfer_pl.tasks.out_of_memory import explain_out_of_memory
from histotransfer_pl.tasks.slide_model import SlidePrediction


def encoder(depth: str = "layer4") -> PatchEncoder:
    return build_encoder(EncoderConfig("timm:test_resnet", "random", depths=[depth]))


def task(
    chunk: int, *, recompute: bool = False, batchnorm: BatchNormMode = "frozen"
) -> TopKFineTuner:
    module = TopKFineTuner(
        Path("unused"),
        "timm:test_resnet",
        chunk_patches=chunk,
        checkpoint_activations=recompute,
        batchnorm=batchnorm,
    )
    module.encoder = encoder()
    module.depth = "layer4"
    module.register_buffer("feature_mean", torch.zeros(1))
    module.register_buffer("feature_deviation", torch.ones(1))
    return module.train()


def patches(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 32, 32, 3), generator=generator, dtype=torch.uint8)


def gradients(module: TopKFineTuner) -> dict[str, Tensor]:
    torch.autograd.backward(module.encode(patches(7)).square().sum())
    named = module.encoder.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("recompute", [False, True])
def test_chunks_have_the_gradient_of_the_whole(recompute: bool) -> None:
    whole = gradients(task(100))
    chunked = gradients(task(3, recompute=recompute))
    assert whole.keys() == chunked.keys()
    assert len(whole) > 10
    for name, gradient in whole.items():
        torch.testing.assert_close(chunked[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "statistics_move", "affine_moves"),
    [("frozen_statistics", False, True), ("frozen", False, False), ("trained", True, True)],
)
def test_batchnorm(mode: BatchNormMode, statistics_move: bool, affine_moves: bool) -> None:
    module = task(100, batchnorm=mode)
    module.eval()
    module.train()  # as after a validation
    layer = next(m for m in module.encoder.modules() if isinstance(m, nn.BatchNorm2d))
    assert layer.running_mean is not None
    before = layer.running_mean.clone()
    weight = layer.weight.detach().clone()
    torch.autograd.backward(module.encode(patches(4)).square().sum())
    torch.optim.SGD([p for p in module.parameters() if p.grad is not None], lr=0.1).step()
    assert torch.equal(before, layer.running_mean) != statistics_move
    assert torch.equal(weight, layer.weight) != affine_moves


def test_frozen_blocks_are_those_up_to_the_named_one() -> None:
    net = encoder()
    freeze_blocks(net, "layer2")
    blocks: dict[bool, set[str]] = {True: set(), False: set()}
    for name, parameter in net.network.named_parameters():
        blocks[parameter.requires_grad].add(name.split(".")[0])
    assert blocks[True] == {"layer3", "layer4"}
    assert blocks[False] >= {"conv1", "layer1", "layer2"}
    set_batchnorm(net.train(), "trained")
    modes = {
        name.split(".")[0]: module.training
        for name, module in net.network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }
    assert modes["layer1"] is False
    assert modes["layer4"] is True
    with pytest.raises(EncoderError, match="depth 'layer7' does not exist"):
        freeze_blocks(net, "layer7")


def test_a_cut_encoder_can_be_frozen_too() -> None:
    net = encoder("layer2")
    freeze_blocks(net, "layer1")
    names = {name.split(".")[0] for name, p in net.network.named_parameters() if p.requires_grad}
    assert names == {"layer2"}


def test_parameter_groups() -> None:
    net, head = encoder(), nn.Linear(4, 2)
    groups = parameter_groups(net, head, 1e-5, 1e-3, 0.1)
    count = sum(len(group["params"]) for group in groups)
    assert count == len([*net.parameters(), *head.parameters()])
    lr = {id(p): group["lr"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {lr[id(p)] for p in net.parameters()} == {1e-5}
    assert {lr[id(p)] for p in head.parameters()} == {1e-3}
    assert decay[id(head.weight)] == 0.1
    assert decay[id(head.bias)] == 0
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    assert len(parameter_groups(net, head, 1e-5, 1e-3, 0.1)) == 2


def test_schedule() -> None:
    cosine = [lr_factor(step, 14, 4, "cosine") for step in range(15)]
    assert cosine[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert cosine[4] == 1
    assert cosine[9] == pytest.approx(0.5)
    assert cosine[14] == pytest.approx(0)
    assert np.all(np.diff(cosine[4:]) < 0)
    assert [lr_factor(step, 4, 0, "constant") for step in range(4)] == [1] * 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_says_what_to_lower(error: RuntimeError) -> None:
    with (
        pytest.raises(ConfigError, match=r"out of memory: lower data\.batch_size"),
        explain_out_of_memory("lower data.batch_size"),
    ):
        raise error
    with pytest.raises(RuntimeError, match="something else"), explain_out_of_memory(""):
        raise RuntimeError("something else")


def pieces(bags: list[tuple[int, list[int], int, bool]]) -> BagPieces:
    """Pieces as (bag, readable rows, length of the bag, whether it ends)."""
    rows = [row for _, own, _, _ in bags for row in own]
    return BagPieces(
        patches=torch.empty(len(rows), 1, 1, 3, dtype=torch.uint8),
        rows=torch.tensor(rows, dtype=torch.long),
        sizes=torch.tensor([len(own) for _, own, _, _ in bags]),
        lengths=torch.tensor([length for _, _, length, _ in bags]),
        targets=torch.tensor([index % 2 for index, _, _, _ in bags]),
        indices=torch.tensor([index for index, _, _, _ in bags]),
        ends=torch.tensor([end for _, _, _, end in bags]),
    )


def test_bags_are_put_together_across_batches() -> None:
    opened = OpenBags()
    first = pieces([(5, [0, 1], 2, True), (6, [0], 4, False)])
    whole = opened.add(first, torch.tensor([[1.0], [2.0], [3.0]]))
    assert whole is not None
    assert whole.indices.tolist() == [5]
    assert whole.features.flatten().tolist() == [1, 2]
    assert opened.add(pieces([(6, [1], 4, False)]), torch.tensor([[4.0]])) is None
    last = pieces([(6, [3], 4, True), (7, [0], 1, True)])
    whole = opened.add(last, torch.tensor([[5.0], [6.0]]))
    assert whole is not None
    assert whole.features.flatten().tolist() == [3, 4, 5, 6]
    assert whole.rows.tolist() == [0, 1, 3, 0]
    assert whole.counts.tolist() == [3, 1]
    assert whole.lengths.tolist() == [4, 1]
    assert whole.targets.tolist() == [0, 1]


def test_a_bag_of_which_nothing_can_be_read_is_an_error() -> None:
    with pytest.raises(SlideError, match="no patch of bag 3 can be read"):
        OpenBags().add(pieces([(3, [], 4, True)]), torch.empty(0, 1))


def test_unreadable_rows_are_filled_in() -> None:
    bags = WholeBags(
        features=torch.empty(3, 1),
        rows=torch.tensor([1, 2, 0]),
        counts=torch.tensor([2, 1]),
        lengths=torch.tensor([4, 1]),
        targets=torch.tensor([0, 1]),
        indices=torch.tensor([0, 1]),
    )
    given = SlidePrediction(
        lengths=bags.counts,
        attention=torch.tensor([0.25, 0.75, 1.0]),
        attention_logits=torch.tensor([-1.0, 2.0, 3.0]),
        patch_logits=torch.tensor([[1.0, 5.0], [2.0, 4.0], [3.0, 3.0]]),
    )
    filled = fill_unreadable(given, bags)
    assert filled["attention"].tolist() == [0, 0.25, 0.75, 0, 1]
    assert filled["attention_logits"].tolist() == [-1, -1, 2, -1, 3]
    assert filled["patch_logits"].tolist() == [[1, 4], [1, 5], [2, 4], [1, 4], [3, 3]]
    assert filled["lengths"].tolist() == [4, 1]
