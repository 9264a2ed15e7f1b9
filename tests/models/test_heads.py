from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.models.heads import (
    AttentionHead,
    GatedAttentionHead,
    MaxPoolHead,
    MeanPoolHead,
    MILHead,
    MILOutput,
)
from tests.models.reference import attention_scores, slide_logits, softmax, trunk

D, C = 24, 3
SIZES = [5, 1, 120, 17]
HEADS: dict[str, Callable[[], MILHead]] = {
    "attention": lambda: AttentionHead(D, C),
    "gated": lambda: GatedAttentionHead(D, C),
    "mean": lambda: MeanPoolHead(D, C),
    "max": lambda: MaxPoolHead(D, C),
    "linear attention": lambda: AttentionHead(D, C, hidden=()),
    "linear mean": lambda: MeanPoolHead(D, C, hidden=()),
    "linear max": lambda: MaxPoolHead(D, C, hidden=()),
}


@pytest.fixture(params=HEADS)
def head(request: pytest.FixtureRequest) -> MILHead:
    torch.manual_seed(3)
    return HEADS[request.param]().eval()


@pytest.fixture
def bags() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(size, D, generator=generator) for size in SIZES]


def pack(head: MILHead, bags: list[Tensor]) -> MILOutput:
    output: MILOutput = head(torch.cat(bags), torch.tensor([len(bag) for bag in bags]))
    return output


@pytest.mark.parametrize(
    ("width", "parameters"),
    [(64, 35461), (128, 51845), (256, 84613), (512, 150149), (1024, 281221), (2048, 543365)],
)
def test_the_defaults_are_the_papers_head(width: int, parameters: int) -> None:
    head = AttentionHead(width, 2)
    assert sum(values.numel() for values in head.parameters()) == parameters


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2], [1, 1, 0]])
def test_a_bag_gives_the_same_alone_or_packed_in_any_order(
    head: MILHead, bags: list[Tensor], order: list[int]
) -> None:
    together = pack(head, [bags[place] for place in order])
    alone = [pack(head, [bags[place]]) for place in order]
    torch.testing.assert_close(together.logits, torch.cat([output.logits for output in alone]))
    torch.testing.assert_close(
        together.attention, torch.cat([output.attention for output in alone])
    )


def test_many_short_bags_give_the_same_as_one_by_one(head: MILHead, bags: list[Tensor]) -> None:
    many = [*torch.split(bags[2], 4), bags[1]]  # goes through the kernel for short bags
    together = pack(head, many)
    torch.testing.assert_close(
        together.logits, torch.cat([pack(head, [bag]).logits for bag in many])
    )


def test_attention_follows_a_permutation_of_the_patches(head: MILHead, bags: list[Tensor]) -> None:
    order = torch.randperm(len(bags[2]), generator=torch.Generator().manual_seed(1))
    plain, permuted = pack(head, [bags[2]]), pack(head, [bags[2][order]])
    torch.testing.assert_close(permuted.attention, plain.attention[order])
    torch.testing.assert_close(permuted.logits, plain.logits)
    assert plain.patch_logits is not None
    assert permuted.patch_logits is not None
    torch.testing.assert_close(permuted.patch_logits, plain.patch_logits[order])


def test_attention_sums_to_one_per_bag(head: MILHead, bags: list[Tensor]) -> None:
    attention = pack(head, bags).attention
    assert attention.dtype == torch.float32
    assert attention.min() >= 0
    sums = torch.stack([bag.sum() for bag in torch.split(attention, SIZES)])
    torch.testing.assert_close(sums, torch.ones(len(SIZES)))


def test_a_single_patch_has_all_the_attention(head: MILHead, bags: list[Tensor]) -> None:
    output = pack(head, [bags[1]])
    torch.testing.assert_close(output.attention, torch.ones(1))
    torch.testing.assert_close(output.embedding, head.trunk(bags[1]))


@pytest.mark.parametrize("name", HEADS)
def test_equals_a_slow_head_in_numpy(name: str, bags: list[Tensor]) -> None:
    torch.manual_seed(3)
    head = HEADS[name]().double()
    weights = {key: value.detach().numpy() for key, value in head.named_parameters()}
    pooling = "attention" if isinstance(head, AttentionHead) else name.rsplit(maxsplit=1)[-1]
    exact = [bag.double() for bag in bags]
    output = pack(head, exact)
    expected = np.stack([slide_logits(bag.numpy(), weights, pooling) for bag in exact])
    np.testing.assert_allclose(output.logits.detach(), expected, rtol=1e-10)
    if pooling == "attention":
        scores = attention_scores(trunk(exact[2].numpy(), weights), weights)
        np.testing.assert_allclose(
            torch.split(output.attention, SIZES)[2].detach(), softmax(scores)
        )


def test_max_attention_is_the_share_of_features_won() -> None:
    head = MaxPoolHead(4, 2, hidden=())
    bag = torch.tensor([[3.0, 0, 1, 9], [1, 2, 1, 0], [0, 2, 1, 0]])
    attention = head(bag, torch.tensor([3])).attention
    # the first wins features 0 and 3; the others share feature 1; all share feature 2
    thirds = torch.tensor([2 + 1 / 3, 0.5 + 1 / 3, 0.5 + 1 / 3]) / 4
    torch.testing.assert_close(attention, thirds)


def test_bfloat16_autocast_is_close(head: MILHead, bags: list[Tensor]) -> None:
    exact = pack(head, bags)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = pack(head, bags)
    assert rough.attention.dtype == torch.float32
    torch.testing.assert_close(rough.logits.float(), exact.logits, rtol=0.03, atol=0.03)
    sums = torch.stack([bag.sum() for bag in torch.split(rough.attention, SIZES)])
    torch.testing.assert_close(sums, torch.ones(len(SIZES)))


def test_half_precision_features_of_a_store_are_taken(head: MILHead, bags: list[Tensor]) -> None:
    halves = [bag.half() for bag in bags]
    torch.testing.assert_close(
        pack(head, halves).logits, pack(head, [bag.float() for bag in halves]).logits
    )


def test_every_parameter_learns(head: MILHead, bags: list[Tensor]) -> None:
    output = pack(head.train(), bags)
    assert output.patch_logits is not None
    torch.autograd.backward(output.logits.square().sum() + output.patch_logits.square().sum())
    # a shift of all scores leaves the softmax as it is, so that bias has no gradient
    learning = {n: p for n, p in head.named_parameters() if n != "attention_score.bias"}
    for name, parameter in learning.items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_dropout_acts_in_training_only(bags: list[Tensor]) -> None:
    head = AttentionHead(D, C, dropout=0.5)
    assert not torch.equal(pack(head, bags).logits, pack(head, bags).logits)
    head.eval()
    assert torch.equal(pack(head, bags).logits, pack(head, bags).logits)


def test_without_a_patch_head_there_are_no_patch_logits(bags: list[Tensor]) -> None:
    assert pack(AttentionHead(D, C, patch_head=False), bags).patch_logits is None


def test_an_empty_bag_is_refused(head: MILHead) -> None:
    with pytest.raises(ConfigError, match="place 1 of the batch has 0 patches"):
        head(torch.randn(4, D), torch.tensor([4, 0]))


def test_features_of_another_width_are_refused(head: MILHead) -> None:
    with pytest.raises(ConfigError, match=r"shape \(4, 7\), but the head takes \(patches, 24\)"):
        head(torch.randn(4, 7), torch.tensor([4]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AttentionHead(0, 2), "in_features 0"),
        (lambda: AttentionHead(8, 2, hidden=(16, 0)), r"hidden \[16, 0\]"),
        (lambda: AttentionHead(8, 0), "num_classes is 0"),
        (lambda: AttentionHead(8, 2, attention_dim=0), "attention_dim is 0"),
        (lambda: AttentionHead(8, 2, dropout=1.0), r"dropout is 1\.0"),
    ],
)
def test_impossible_settings_are_refused(build: Callable[[], MILHead], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()
