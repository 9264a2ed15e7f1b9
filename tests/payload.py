"""A pickle that does something when it is read, as that of an attacker would."""

from pathlib import Path
from typing import Any

from typing_extensions import override


class Payload:
    """Unpickling it creates a file, as an attack would run a command."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))
