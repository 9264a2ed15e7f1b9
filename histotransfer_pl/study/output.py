"""Where the text of a step goes."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from typing_extensions import override


class RedirectableStream(io.TextIOBase):
    """A text stream that can be pointed at another file.

    Stands for stdout and stderr during a whole study: what is imported in the first step and
    keeps the stream (log handlers do) still writes to the right file in the second.
    """

    def __init__(self, target: TextIO) -> None:
        self._target = target

    @override
    def write(self, text: str) -> int:
        return self._target.write(text)

    @override
    def flush(self) -> None:
        self._target.flush()

    @override
    def writable(self) -> bool:
        return True

    @property
    @override
    def encoding(self) -> str:  # type: ignore[override]
        """Of the target."""
        return self._target.encoding

    @contextmanager
    def writing_to(self, path: Path) -> Iterator[None]:
        """Write into a file, anew, for as long as the context lasts."""
        path.parent.mkdir(parents=True, exist_ok=True)
        before = self._target
        with path.open("w", encoding="utf-8", errors="backslashreplace", buffering=1) as file:
            self._target = file
            try:
                yield
            finally:
                self._target = before


def last_line(path: Path) -> str:
    """The line of a log that says most likely what went wrong."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line]
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or ["it said nothing"])[-1]
