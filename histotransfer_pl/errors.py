"""Every error this package raises on purpose.

Each also inherits the builtin a caller would expect. A message says what was found, what was
expected and what to do.
"""


class HistoTransferError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one line."""


class ConfigError(HistoTransferError, ValueError):
    """A setting that cannot be used."""


class RecordError(HistoTransferError, ValueError):
    """A stored fact that cannot be read: damaged, or of a later version."""


class SlideError(HistoTransferError, OSError):
    """A slide that cannot be opened or read."""


class MissingMppError(SlideError, ValueError):
    """A slide whose resolution is unknown or implausible."""


class WorkerError(HistoTransferError, RuntimeError):
    """A worker process that ended before its work did."""


class StoreError(HistoTransferError, OSError):
    """A store that cannot be opened, read or written."""


class StoreMismatchError(StoreError, ValueError):
    """A store that holds something other than what was asked for."""


class StoreLockedError(StoreError):
    """A store that another process is writing."""


class StoreReadOnlyError(StoreError):
    """A store that can be read but not written, such as one on shared, protected data."""


class CohortError(HistoTransferError, ValueError):
    """A cohort table that cannot be used or joined."""


class SplitError(CohortError):
    """Folds that cannot be made, or that leak patients."""


class EncoderError(HistoTransferError, ValueError):
    """An encoder, depth or input size that does not exist or does not fit."""


class WeightsError(EncoderError):
    """A checkpoint that is missing, damaged or of another architecture."""


class AnalysisError(HistoTransferError, ValueError):
    """Data on which a statistic is not defined."""


_SHOWN = 5


def shorten(names: list[str]) -> str:
    """The first few names and how many more there are, for a message."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
