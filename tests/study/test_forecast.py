"""What a study will take, against a calculation by hand; missing weights are named."""

from dataclasses import replace
from pathlib import Path

import pytest

from histotransfer_pl.cli.doctor_study import read_study
from histotransfer_pl.cli.main import main
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.cost import DepthCost
from histotransfer_pl.slides.synthetic import paint_cohort
from histotransfer_pl.study.config import Folds, Pair, Probe, StudyConfig, Tuning
from histotransfer_pl.study.forecast import Amount, encoder_work, forecast
from histotransfer_pl.study.tuning import Stage1

FOUNDATION = Path(__file__).parents[2] / "configs" / "foundation_models.yaml"
COSTS = [DepthCost("e", "block0", 10, 1_000, 100, 224), DepthCost("e", "norm", 20, 5_000, 400, 224)]
AMOUNT = Amount(slides=50, patches=10_000)
STUDY = StudyConfig(
    name="s",
    cohort=Path("c.csv"),
    heads={"attention": {"class_path": "AttentionHead"}},
    encoders=[EncoderConfig("resnet18", alias="e")],
    variants=["frozen", "topk"],
    folds=Folds(n_folds=5),
    tuning=Tuning(k=8, methods=["lora", "full"], fit={"trainer": {"max_epochs": 3}}),
    similarity=[Pair("e", "random")],
    gain=[Probe("e")],
)


def test_the_work_of_an_encoder_is_counted() -> None:
    start = Stage1("e", "block0", "attention", 0, 0)
    work = encoder_work(STUDY, STUDY.encoders[0], COSTS, [start], AMOUNT)
    assert work.macs["extraction"] == 10_000 * 400 + 2 * 10_000 * 100  # again with both tuned ones
    assert work.macs["random networks of the gain"] == 5 * 10_000 * 400
    assert work.macs["CKA"] == 4096 * 400
    # three epochs of 240 = .6 * 50 * 8 chosen patches and 2,000 of validation, then 2,000 of test;
    # a backward pass of adapters costs one forward pass, a full one two
    lora, full = (3 * (240 * passes + 2_000) + 2_000 for passes in (2, 3))
    assert work.macs["tuning"] == (lora + full) * 100
    assert work.feature_bytes == 10_000 * (2 * 30 + 8) + 2 * 10_000 * (2 * 10 + 8)
    assert work.run_bytes == pytest.approx(1_000 * 4 * 7 * 1.01)


def test_checkpointing_computes_forward_passes_again() -> None:
    start = Stage1("e", "block0", "attention", 0, 0)
    again = {"trainer": {"max_epochs": 3}, "model": {"checkpoint_activations": True}}
    study = replace(STUDY, tuning=replace(STUDY.tuning, fit=again))
    plain, more = (
        encoder_work(each, STUDY.encoders[0], COSTS, [start], AMOUNT) for each in (STUDY, study)
    )
    assert more.macs["tuning"] - plain.macs["tuning"] == 2 * 3 * 240 * 100


def test_the_rate_is_stated_and_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    study = replace(STUDY, variants=["frozen"], similarity=[], gain=[])
    (stated,) = [f.text for f in forecast(study, AMOUNT) if f.subject == "cost"]
    assert "stated rates of one H100" in stated
    macs = 1_813_561_344 * 10_000  # ResNet-18 at 224 px
    (given,) = [f.text for f in forecast(study, AMOUNT, macs / 3600) if f.subject == "cost"]
    assert given.startswith("GPU time about 1.0 h (extraction 1.0 h)")


def test_missing_weights_are_named_with_their_page_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "phikon_v2.bin").touch()
    monkeypatch.setenv("HISTOTRANSFER_WEIGHTS", str(tmp_path / "weights"))
    assert main(["doctor", "--config", str(FOUNDATION)]) == 1
    lines = capsys.readouterr().out.splitlines()
    weights = [line for line in lines if line[8:].startswith("weights")]
    missing = [line for line in weights if line.startswith("PROBLEM")]
    assert (len(weights), len(missing)) == (7, 6)
    uni2 = next(line for line in missing if "of uni2_h" in line)
    for words in (
        "huggingface.co/MahmoodLab/UNI2-h",
        "put uni2_h.safetensors",
        "Nothing was f",
    ):
        assert words in uni2
    assert "a file has about 2.5 GiB" in uni2  # 681 M parameters of four bytes
    assert any("phikon_v2.bin" in line for line in weights)
    assert any("no slide was counted" in line for line in lines)
    assert [p.name for p in tmp_path.iterdir()] == ["weights"], "nothing is written"


def test_slides_are_counted_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    paint_cohort(tmp_path, n_patients=6, slides_per_patient=1, seed=0, size_px=560)
    Path("study.yaml").write_text(
        "name: s\ncohort: cohort.csv\nfolds: {n_folds: 3}\ngrid: {patch_px: 64, mpp: 1.0}\n"
        "heads: {attention: {class_path: AttentionHead}}\n"
        "encoders: [{name: resnet18, weights: random, depths: [stem]}]\n"
    )
    assert read_study(Path("study.yaml")).grid.patch_px == 64
    assert main(["doctor", "--config", "study.yaml", "--sample", "6"]) == 0
    out = capsys.readouterr().out
    assert "6 of 6 slides can be read" in out
    assert "no slide was counted" not in out
