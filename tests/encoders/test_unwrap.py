"""Checkpoints as training programs wrap them: the network inside is found or must be chosen."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.errors import WeightsError

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    encoder = build_encoder(EncoderConfig("resnet18", weights="random", depths=["layer1"]))
    return {key: value.contiguous() for key, value in encoder.network.state_dict().items()}


def load(content: object, folder: Path, **settings: Any) -> PatchEncoder:
    path = folder / "checkpoint.pth"
    torch.save(content, path)
    return build_encoder(
        EncoderConfig("resnet18", weights=str(path), depths=["layer1"], **settings)
    )


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def other(state: State) -> State:
    return {key: value + 1 for key, value in state.items()}


HEAD: State = {"classifier.0.weight": torch.zeros(2, 512)}
FORMS: dict[str, Callable[[State], object]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"state": {0: {"m": torch.ones(2)}}}},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.1},
    "teacher alone": lambda state: {"teacher": under("backbone.", state)},
    "module": lambda state: under("module.", state),
    "backbone": lambda state: under("backbone.", state),
    "lightning": lambda state: {"state_dict": under("model.", state), "hyper_parameters": {"a": 1}},
    "encoder and head": lambda state: under("encoder.", state) | HEAD,
    "compiled": lambda state: under("_orig_mod.", state),
    "several prefixes": lambda state: {"state_dict": under("model.module.encoder.", state)},
    "classifier behind a prefix": lambda state: under(
        "module.", state | {"fc.weight": torch.zeros(2, 512)}
    ),
    "the same dict twice": lambda state: {"state_dict": state, "state_dict_ema": state},
    "namespace beside it": lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1)},
    "numbers of numpy beside it": lambda state: {
        "state_dict": state,
        "best": np.float64(0.8),
        "epoch": np.int64(3),
    },
    "a path beside it": lambda state: {"state_dict": state, "data": Path("slides")},
}


@pytest.mark.parametrize("form", FORMS)
def test_usual_wrappers_come_off(form: str, state: State, tmp_path: Path) -> None:
    loaded = load(FORMS[form](state), tmp_path).network.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_what_was_taken_and_left_out_is_said_in_one_line(
    state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "histotransfer_pl")
    load({"state_dict": under("encoder.", state) | HEAD}, tmp_path)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "took the network at state_dict.encoder; 1 tensors beside it are left out" in line
    caplog.clear()
    load(state, tmp_path)
    assert not caplog.records


CHOICES: dict[str, tuple[Callable[[State], object], str, str]] = {
    "teacher and student": (
        lambda state: {
            "teacher": under("backbone.", other(state)),
            "student": under("module.backbone.", state),
        },
        r"2 networks that fit: teacher.backbone, student.module.backbone; set weights_key",
        "student",
    ),
    "MoCo": (
        lambda state: {
            "state_dict": under("module.encoder_q.", state)
            | under("module.encoder_k.", other(state))
        },
        r"state_dict.module.encoder_q, state_dict.module.encoder_k; set weights_key",
        "state_dict.module.encoder_q",
    ),
    "average": (
        lambda state: {"state_dict": state, "state_dict_ema": other(state)},
        r"2 networks that fit: state_dict, state_dict_ema; set weights_key",
        "state_dict",
    ),
}


@pytest.mark.parametrize("form", CHOICES)
def test_of_several_networks_the_choice_is_the_users(
    form: str, state: State, tmp_path: Path
) -> None:
    wrap, message, chosen = CHOICES[form]
    with pytest.raises(WeightsError, match=message):
        load(wrap(state), tmp_path)
    loaded = load(wrap(state), tmp_path, weights_key=chosen).network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    with pytest.raises(WeightsError, match=r"at weights_key 'nobody'"):
        load(wrap(state), tmp_path, weights_key="nobody")


def test_what_belongs_to_no_classifier_is_not_left_out_silently(
    state: State, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=r"0 missing, 1 unexpected \(fc2.weight\)"):
        load(state | {"fc2.weight": torch.zeros(2)}, tmp_path)
    with pytest.raises(WeightsError, match=r"dicts of tensors in it: model, ema"):
        load({"model": {"a": torch.zeros(1)}, "ema": {"b": torch.zeros(1)}}, tmp_path)


def test_values_that_are_not_finite_are_refused(state: State, tmp_path: Path) -> None:
    broken = state | {"bn1.weight": torch.full((64,), float("nan"))}
    with pytest.raises(WeightsError, match=r"NaN or infinite values in 1 tensors \(bn1.weight\)"):
        load(broken, tmp_path)


def test_a_whole_model_is_refused_by_the_names_in_it(tmp_path: Path) -> None:
    encoder = build_encoder(EncoderConfig("resnet18", weights="random", depths=["layer1"]))
    with pytest.raises(
        WeightsError, match=r"holds other objects \(.*ResNet.*Nothing was loaded"
    ) as e:
        load(encoder.network, tmp_path)
    assert "weights_only" not in str(e.value)
    assert "\n" not in str(e.value)
