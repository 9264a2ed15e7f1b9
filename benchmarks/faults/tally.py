"""What became of the faults that a campaign tried."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tally:
    """Counts of one area.

    Attributes:
        area: What was damaged, such as ``slides``.
        tried: Faults tried.
        survived: Of these, named in one line, or without any effect.
        lost: Of these, good data lost or wrong data returned without an error.
        unexplained: Of these, ended by a traceback, a signal, a hang or a memory bomb.
    """

    area: str
    tried: int
    survived: int
    lost: int
    unexplained: int
