"""What must not pass in silence: divergence, leaks through tuned encoders, losses of no use."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import Tensor

from histotransfer_pl.callbacks.tuned_encoder import tuned_facts
from histotransfer_pl.data.refusals import refuse_trained_patients
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.errors import AnalysisError, ConfigError, SplitError, StoreMismatchError
from histotransfer_pl.models.heads import AttentionHead, GatedAttentionHead, MeanPoolHead
from histotransfer_pl.records.encoder import EncoderSpec, FeatureSpec, WeightsRef
from histotransfer_pl.records.run import ClassSpec, RunRecord, SplitSpec, TargetSpec
from histotransfer_pl.tasks import finetune
from histotransfer_pl.tasks.finetune import TopKFineTuner
from histotransfer_pl.tasks.gain import refuse_tuned_on, require_same_network
from histotransfer_pl.tasks.mil import AttentionMIL
from tests.tuning import TOPK, tuning


def test_without_a_slide_loss_nothing_is_trained_that_is_reported() -> None:
    with pytest.raises(ConfigError, match="alpha must be above 0"):
        AttentionMIL(alpha=0.0, beta=1.0)


@pytest.mark.parametrize("named", [True, False])
def test_a_plateau_schedule_watches_the_validation(named: bool) -> None:
    def schedule(optimizer: torch.optim.Optimizer) -> Any:
        if named:
            return ReduceLROnPlateau(optimizer, monitor="val/auroc", mode="max")
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)

    task = AttentionMIL(lr_scheduler=schedule)
    task.head = AttentionHead(4, 2)
    found: Any = task.configure_optimizers()
    assert found["lr_scheduler"]["monitor"] == ("val/auroc" if named else "val/loss")


def test_a_diverged_encoder_does_not_validate(
    tuning_cohort: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: TopKFineTuner, patches: Tensor) -> Tensor:
        features: Tensor = self.encoder(patches)[self.depth]
        return features if self.training else features * torch.nan

    monkeypatch.setattr(finetune.TopKFineTuner, "_encode_chunk", broken)
    assert tuning("fit", *TOPK, "--run_dir", "nan", epochs=1) == 1
    assert "training diverged; lower model.encoder_lr" in capsys.readouterr().err


def test_an_encoder_that_was_tuned_before_keeps_its_first_patients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patients = {"train": ["b1"], "validation": ["b2"]}
    data = SimpleNamespace(
        patients=patients.__getitem__,
        source=SimpleNamespace(split=SplitSpec(0, 5, 0)),
        selection="s",
        selection_facts={"rule": "attention"},
        features=FeatureSpec(
            EncoderSpec("e", "e", WeightsRef("pretrained", sha256="x")), ("last",), 4
        ),
    )
    monkeypatch.setattr("histotransfer_pl.callbacks.tuned_encoder.topk_data", lambda _: data)
    before = {"tuned": {"tuned_on_patients": ["a1"], "tuned_validation_patients": ["a2"]}}
    task: Any = SimpleNamespace(encoder=SimpleNamespace(provenance=before), stage1="r")
    facts = tuned_facts(SimpleNamespace(default_root_dir="run"), task)  # type: ignore[arg-type]
    assert facts["tuned_on_patients"] == ["a1", "b1"]
    assert facts["tuned_validation_patients"] == ["a2", "b2"]


def test_the_gain_of_a_tuned_encoder_needs_other_patients() -> None:
    facts = {"tuned_on_patients": ["p1", "p2"], "tuned_validation_patients": ["p3"]}
    with pytest.raises(AnalysisError, match=r"tuned on 2 of these patients \('p2', 'p3'\)"):
        refuse_tuned_on(facts, np.array(["p2", "p3", "p4"]))
    refuse_tuned_on(facts, np.array(["p4"]))


def test_random_weights_do_not_depend_on_where_lightning_builds() -> None:
    with torch.device("meta"):
        built = build_encoder(EncoderConfig("timm:test_resnet", weights="random"))
    plain = build_encoder(EncoderConfig("timm:test_resnet", weights="random"))
    state = plain.network.state_dict()
    for name, value in built.network.state_dict().items():
        assert value.device.type == "cpu"
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


@pytest.mark.parametrize("head", [AttentionHead, GatedAttentionHead, MeanPoolHead])
def test_heads_run_in_true_bfloat16(head: type[AttentionHead]) -> None:
    network = head(4, 2).to(torch.bfloat16)
    output = network(torch.randn(5, 4, dtype=torch.bfloat16), torch.tensor([2, 3]))
    output.logits.sum().backward()
    assert output.logits.dtype == torch.bfloat16


def test_a_convnext_of_another_head_is_cut_by_timm() -> None:
    encoder = build_encoder(
        EncoderConfig("timm:convnext_tiny_hnf", weights="random", input_px=64, depths="last")
    )
    features = encoder(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    assert features[encoder.depths[-1]].ndim == 2


@pytest.mark.parametrize(
    ("test", "validation", "leaked"),
    [
        (["seen"], [], "'seen'"),
        ([], ["seen"], "'seen'"),
        (["chosen", "seen"], [], "'chosen', 'seen'"),
        (["chosen"], [], "'chosen'"),
        (["new"], ["chosen"], None),  # who chose the epoch may choose again, but not test
    ],
)
def test_a_checkpoint_tests_no_patient_it_was_trained_on_or_chosen_by(
    test: list[str], validation: list[str], leaked: str | None
) -> None:
    parts = {"test": test, "validation": validation}
    trained = RunRecord(
        FeatureSpec(EncoderSpec("e", "e", WeightsRef("random")), ("last",), 4),
        TargetSpec("label", ("a", "b")),
        ClassSpec("h"),
        train_patients=("seen",),
        validation_patients=("chosen",),
    )
    evaluated = set(parts["validation"]), set(parts["test"])
    if leaked is None:
        refuse_trained_patients(trained, *evaluated)
        return
    with pytest.raises(SplitError, match=rf"of the patients to validate or test on \({leaked}\)"):
        refuse_trained_patients(trained, *evaluated)


def test_the_gain_of_stored_features_needs_the_same_network() -> None:
    facts: dict[str, Any] = {"architecture": "resnet18", "pooling": "average"}
    facts |= {"weights_sha256": "x", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    require_same_network(EncoderConfig("resnet18"), facts)
    with pytest.raises(StoreMismatchError, match="architecture: 'resnet18', not 'resnet50'"):
        require_same_network(EncoderConfig("timm:resnet50", alias="resnet18"), facts)
