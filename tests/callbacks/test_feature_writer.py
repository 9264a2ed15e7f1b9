"""The writing side of an extraction: nothing waits for the device but the thread that writes."""

import threading
from typing import Any

import numpy as np
import pytest
import torch

from histotransfer_pl.callbacks import feature_writer
from histotransfer_pl.callbacks.feature_writer import Timings
from histotransfer_pl.callbacks.summary import describe_bottleneck, describe_timings
from histotransfer_pl.data.patches import Reading

Log = list[tuple[Any, ...]]


class OnDevice:
    """Features that the device may not have computed yet."""

    is_cuda = True
    shape = (2, 3)
    dtype = torch.float32

    def cpu(self) -> None:
        raise AssertionError("this waits for the device")


class Host:
    """Memory to which a copy is under way."""

    def __init__(self, log: Log, *, pinned: bool) -> None:
        self.log, self.pinned = log, pinned

    def copy_(self, source: OnDevice, *, non_blocking: bool) -> "Host":
        assert self.pinned
        self.log.append(("copy", non_blocking, threading.current_thread().name))
        return self

    def numpy(self) -> np.ndarray:
        assert ("synchronize", threading.current_thread().name) in self.log
        return np.ones((2, 3), np.float32)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """What is asked of a device that is not there."""
    found: Log = []

    class Event:
        def __init__(self, *, blocking: bool) -> None:
            assert blocking  # sleeps instead of burning a core that could read

        def record(self) -> None:
            found.append(("record",))

        def synchronize(self) -> None:
            found.append(("synchronize", threading.current_thread().name))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(
        torch, "empty", lambda *_, dtype, pin_memory: Host(found, pinned=pin_memory)
    )
    return found


def test_features_are_fetched_behind_the_work_and_awaited_by_the_writer(log: Log) -> None:
    sent = feature_writer._send_to_host({"a": OnDevice(), "b": OnDevice()})  # type: ignore[dict-item]
    here = threading.current_thread().name
    assert log == [("copy", True, here), ("copy", True, here), ("record",)]
    arrays: list[dict[str, Any]] = []
    writer = threading.Thread(target=lambda: arrays.append(sent.wait()), name="writer")
    writer.start()
    writer.join()
    assert log[3:] == [("synchronize", "writer")]
    assert arrays[0].keys() == {"a", "b"}


def test_features_of_the_cpu_are_passed_on_as_they_are() -> None:
    values = torch.rand(2, 3)
    sent = feature_writer._send_to_host({"a": values})
    assert sent.wait()["a"].ctypes.data == values.data_ptr()


PROCESSES = Reading(torch.device("cuda"), 256, 15, 16)
THREADS = Reading(torch.device("cpu"), 32, 0, 2)


@pytest.mark.parametrize(
    ("timings", "message"),
    [
        (Timings(waiting=0.5, encoding=9), "encoding; a shallower depth"),
        (Timings(waiting=5, encoding=5, reading=60, reading_in=PROCESSES), "data.num_workers"),
        (Timings(waiting=5, encoding=5, reading=60, reading_in=THREADS), "data.threads, or"),
        (Timings(waiting=5, encoding=5, reading=60, file=40), "copy the slides to a faster disk"),
        (Timings(waiting=5, encoding=5, reading=60, copying=9), "copying to the device"),
        (Timings(waiting=0.1, encoding=9, writing=8), "writing; put the store on a faster disk"),
    ],
)
def test_the_bottleneck_is_told_with_what_to_set(timings: Timings, message: str) -> None:
    assert describe_bottleneck(timings).startswith("bottleneck: ")
    assert message in describe_bottleneck(timings)


def test_the_summary_tells_decodes_per_tile_and_who_read() -> None:
    timings = Timings(1, 9, 20, 2, 8, 0.5, 0.2, 1000, 120, 100, PROCESSES)
    text = describe_timings(timings)
    assert "1000 patches in 10.0 s (100.0 patches/s)" in text
    assert "20.0 s of 15 processes (files 2.0, decoding 8.0" in text
    assert "1.20 decodes per tile), copying 0.5 s, writing 0.2 s" in text
    assert describe_timings(Timings()) == "nothing was left to encode"
