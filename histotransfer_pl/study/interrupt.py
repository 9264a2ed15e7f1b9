"""Ctrl-C and a polite kill, seen by the study whatever a step makes of them."""

import signal
import threading
from types import FrameType
from typing import Any, Self


class Interruption:
    """While it lasts, SIGINT and SIGTERM raise KeyboardInterrupt and are remembered.

    Lightning turns an interruption of a Trainer into exit code 1 and ignores SIGINT from then on;
    without this, a study would take Ctrl-C for a failed step and go on with the next one.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        """Watch for some signals; for both when none is named."""
        self.asked = False
        self.leaving = False  # whether an engine ends this process by SystemExit
        self._signals = signals or (signal.SIGINT, signal.SIGTERM)
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Python lets only the main thread set handlers; elsewhere signals do what they did.
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                self._before[number] = signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        raise KeyboardInterrupt
