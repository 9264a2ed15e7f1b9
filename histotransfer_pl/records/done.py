"""What a verb has done."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SLIDES_FAILED = 3
"""Exit code of a verb that ended, but lost slides; it says which and why."""
INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and after SIGTERM, as shells and schedulers know them."""


@dataclass(frozen=True)
class Done:
    """What a verb has done: lines for people, facts for programs.

    Attributes:
        lines: In words.
        files: What was written.
        metrics: Numbers that were measured or counted.
        failures: What failed, by slide or subject, and why.
        failure_code: Exit code of the command where something failed.
    """

    lines: list[str]
    files: list[Path | str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    failure_code: int = SLIDES_FAILED

    @property
    def exit_code(self) -> int:
        """Exit code of the command."""
        return self.failure_code if self.failures else 0
