"""What Lightning says that a user of this package cannot act on, or that is not so here."""

import logging
import warnings

_TALKATIVE = (
    # Tips, and lists of absent accelerators. The parents get their level when Lightning is
    # imported; these keep theirs.
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    # Seeds, which are in the configuration.
    "lightning.fabric.utilities.seed",
)
_NOT_SO = (
    # Bags in memory and reader threads need no worker processes; Lightning cannot know it.
    ".*does not have many workers.*",
    # A run folder is meant to be used by fit, then test, then predict.
    ".*exists and is not empty.*",
    # A run folder may be named otherwise than by its fit, or moved.
    ".*The dirpath has changed from.*",
    # The arguments are those of the command line, passed on.
    ".*LightningCLI's args parameter is intended.*",
    # Our sampler returns every bag once; Lightning cannot know that either.
    ".*using a custom batch sampler.*",
    # BatchNorm layers that keep their statistics are in eval mode while the rest trains.
    ".*in eval mode at the start of training.*",
    # Between Lightning 2.6 and torch's newer pytree.
    ".*treespec, LeafSpec.*",
)


def quieten_lightning() -> None:
    """Leave these messages out; other warnings of Lightning stay."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _NOT_SO:
        warnings.filterwarnings("ignore", message)
