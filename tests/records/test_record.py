"""Records survive JSON unchanged, refuse what they are not, and say how two of them differ."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histotransfer_pl.errors import ConfigError, RecordError
from histotransfer_pl.records.encoder import EncoderSpec, FeatureSpec, TunedOn, WeightsRef
from histotransfer_pl.records.grid import GridSettings, TissueSettings
from histotransfer_pl.records.run import (
    ClassSpec,
    RunRecord,
    SplitSpec,
    TargetSpec,
    choose_positive,
)

RUN = RunRecord(
    features=FeatureSpec(
        EncoderSpec(
            "resnet18",
            "resnet18",
            WeightsRef("tuned", "path:a.safetensors", "ab", base="cd"),
            model_args={"img_size": 224, "reg_tokens": 4},
            mean=(0.5, 0.5, 0.5),
            std=(1, 1, 1),
            input_px=112,
        ),
        ("layer2", "layer3"),
        384,
        tuned_on=TunedOn(("P1",), ("P2",), 0, "12"),
    ),
    target=TargetSpec("label", ("neg", "pos"), "pos"),
    head=ClassSpec("a.B", {"hidden": [8], "gated": True}),
    split=SplitSpec(0, 5, 1),
    train_patients=("P1",),
    grid=GridSettings(mpp=1, tissue=TissueSettings(method="none")),
    counts={"train": 3},
)


def test_a_record_survives_json() -> None:
    text = json.dumps(RUN.to_json())
    read = RunRecord.from_json(json.loads(text))
    assert read == RUN
    assert read.features.encoder.weights.base == "cd"
    assert isinstance(read.train_patients, tuple)


@given(
    st.builds(
        WeightsRef,
        st.sampled_from(["pretrained", "random", "tuned", "adapter", "imported"]),
        origin=st.text(),
        sha256=st.text(),
        seed=st.none() | st.integers(),
    )
)
def test_any_weights_survive_json(weights: WeightsRef) -> None:
    assert WeightsRef.from_json(json.loads(json.dumps(weights.to_json()))) == weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "magic"}, r"WeightsRef.kind holds 'magic', expected 'pretrained' or 'random'"),
        ({"seed": "0"}, r"WeightsRef.seed holds '0', expected int"),
        ({"seed": True}, r"WeightsRef.seed holds True, expected int"),
        ({"origin": 3}, r"WeightsRef.origin holds 3, expected str"),
        ({"later": 1}, r"WeightsRef has no later, only kind, origin.*later version"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        WeightsRef.from_json({"kind": "random", **change})


def test_a_missing_field_is_named() -> None:
    with pytest.raises(RecordError, match="WeightsRef lacks kind"):
        WeightsRef.from_json({})
    values = RUN.to_json()
    values["features"]["encoder"] = "resnet18"
    with pytest.raises(RecordError, match=r"RunRecord.features.encoder holds 'resnet18'"):
        RunRecord.from_json(values)


def test_differs_names_nested_fields() -> None:
    values = RUN.to_json()
    values["features"]["encoder"]["weights"]["sha256"] = "ff"
    values["target"]["classes"] = ["a", "b"]
    assert RUN.differs(RunRecord.from_json(values)) == [
        "features.encoder.weights.sha256: 'ab', not 'ff'",
        "target.classes: ['neg', 'pos'], not ['a', 'b']",
    ]
    assert RUN.differs(RUN) == []


@pytest.mark.parametrize(
    ("classes", "given", "expected"),
    [
        (("0", "1"), None, "1"),
        (("Tumor", "normal"), None, "Tumor"),
        (("MSI", "MSS"), "MSI", "MSI"),
        (("a", "b", "c"), None, None),
    ],
)
def test_the_positive_class(classes: tuple[str, ...], given: str | None, expected: str) -> None:
    assert choose_positive(classes, given) == expected


def test_words_without_a_known_order_need_a_positive_class() -> None:
    with pytest.raises(ConfigError, match=r"MSI and MSS.*data.positive"):
        choose_positive(("MSI", "MSS"), None)
    with pytest.raises(ConfigError, match=r"'x', which is none of the classes MSI, MSS"):
        choose_positive(("MSI", "MSS"), "x")
