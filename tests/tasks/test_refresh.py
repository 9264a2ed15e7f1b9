"""A refreshed selection ranks the candidates by the attention of now."""

from pathlib import Path

import numpy as np
import pytest
import torch

from histotransfer_pl.cli.main import main
from histotransfer_pl.data.topk import TopKPatchDataModule
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.models.heads import AttentionHead, MeanPoolHead, MILHead, MILOutput
from histotransfer_pl.tasks.refresh import rank_candidates
from tests.tuning import TOPK, tuning


class Task:
    """Encoder and head with weights of their own."""

    chunk_patches = 4

    def __init__(self, head: MILHead) -> None:
        self.encoder = build_encoder(EncoderConfig("timm:test_resnet", "random", seed=7))
        self.head = head

    def encode(self, patches: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.encoder(patches)["layer4"]
        return features

    def classify(self, features: torch.Tensor, lengths: torch.Tensor) -> MILOutput:
        output: MILOutput = self.head(features, lengths)
        return output


@pytest.mark.parametrize("rule", ["attention", "bottom"])
def test_candidates_are_ranked_by_the_attention_of_now(tuning_cohort: Path, rule: str) -> None:
    select = ["select", "--run_dir", "stage1", "--top_k", "3", "--pool", "9", "--name", "nine"]
    assert main([*select, "--rule", rule]) == 0
    data = TopKPatchDataModule(Path("s.zarr"), Path("c.csv"), "nine", n_folds=3)
    data.setup("fit")
    torch.manual_seed(0)
    task = Task(AttentionHead(96, 2))
    slide_id = data.split.train[0]
    before = data.candidates[slide_id]
    ranked = rank_candidates(task, data, slide_id, torch.device("cpu"))
    read = [data.cache.read(slide_id, int(row)) for row in before]
    images = np.stack([patch for patch in read if patch is not None])
    with torch.no_grad():
        logits = task.head(task.encode(torch.from_numpy(images)), torch.tensor([9]))[1]
    sign = 1 if rule == "bottom" else -1
    assert ranked.tolist() == before[np.argsort(sign * logits.numpy())].tolist()
    assert ranked.tolist() != before.tolist()


def test_a_head_without_attention_cannot_refresh(tuning_cohort: Path) -> None:
    data = TopKPatchDataModule(Path("s.zarr"), Path("c.csv"), "top3", n_folds=3)
    data.setup("fit")
    with pytest.raises(ConfigError, match="the head has no attention to rank by"):
        rank_candidates(Task(MeanPoolHead(96, 2)), data, data.split.train[0], torch.device("cpu"))


def test_a_random_selection_is_not_refreshed(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["select", "--run_dir", "stage1", "--top_k", "3", "--rule", "random", "--name", "r"])
        == 0
    )
    settings = ["--data.selection", "r", "--model.refresh_every_n_epochs", "1"]
    assert tuning("fit", *TOPK, "--run_dir", "bad", *settings) == 1
    assert "a selection by rule random cannot be refreshed" in capsys.readouterr().err
