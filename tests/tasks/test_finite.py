"""Steps whose values are not finite end the run, without a wait for the device in each step."""

from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import torch

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.tasks.finite import FiniteCheck
from histotransfer_pl.tasks.mil import AttentionMIL


def refuse() -> NoReturn:
    raise ConfigError("not finite")


class Flag:
    """The answer of a step, on a device that has not come to it yet."""

    def __init__(self, *, finite: bool) -> None:
        self.device = torch.device("cuda")
        self.value = 1.0 if finite else float("nan")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the program waited for."""
    found: list[str] = []

    class Host:
        def copy_(self, flag: Flag, **_: Any) -> None:
            self.value = flag.value

        def __float__(self) -> float:
            return self.value

    class Event:
        def __init__(self, _: torch.device) -> None: ...

        def record(self) -> None: ...

        def synchronize(self) -> None:
            found.append("device")

    monkeypatch.setattr(torch, "empty_like", lambda *_, **__: Host())
    monkeypatch.setattr(torch, "Event", Event)
    return found


def test_on_the_cpu_a_step_is_refused_at_once() -> None:
    check = FiniteCheck()
    check.note(torch.tensor(1.0), refuse)
    with pytest.raises(ConfigError):
        check.note(torch.tensor(float("inf")), refuse)


def test_on_a_device_the_answer_of_a_step_is_read_one_step_later(waits: list[str]) -> None:
    check = FiniteCheck()
    check.note(Flag(finite=False), refuse)  # type: ignore[arg-type]
    assert waits == []
    with pytest.raises(ConfigError):
        check.note(Flag(finite=True), refuse)  # type: ignore[arg-type]
    assert waits == ["device"]


def test_before_weights_are_stored_the_last_step_is_looked_at(waits: list[str]) -> None:
    check = FiniteCheck()
    check.note(Flag(finite=False), refuse)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        check.settle()
    check.settle()  # said once


def test_neither_a_checkpoint_nor_an_epoch_is_ended_after_a_bad_step(waits: list[str]) -> None:
    model = AttentionMIL(in_features=4, classes=["normal", "tumour"])
    ends: list[Callable[[], None]] = [
        lambda: model.on_save_checkpoint({}),
        model.on_train_epoch_end,
    ]
    for end in ends:
        model.finite.note(Flag(finite=False), refuse)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="not finite"):
            end()
    assert waits == ["device", "device"]
