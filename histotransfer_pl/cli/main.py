"""``python -m histotransfer_pl VERB``: one verb a function, errors in one line."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

from histotransfer_pl import __version__
from histotransfer_pl.errors import HistoTransferError
from histotransfer_pl.tasks.heap import keep_freed_memory

_VERBS: dict[str, tuple[str, str]] = {
    # verb: (module:function, what it does)
    "demo": ("files:demo", "paint slides, extract, fit and test: the main job in minutes"),
    "tile": ("files:tile", "slides -> patch coordinates and QC thumbnails"),
    "extract": ("network:extract", "slides -> features in a store"),
    "fit": ("network:run", "train"),
    "validate": ("network:run", "metrics of the validation part"),
    "test": ("network:run", "metrics of the test part"),
    "select": ("select:select", "attention of a run -> the patches of each slide to tune on"),
    "predict": ("network:run", "predictions and attention of every slide"),
    "package": ("model:package", "a run -> one model file"),
    "apply": ("model:apply", "a model, or several, on new slides: predictions, attention, a page"),
    "report": ("report:report", "finished runs -> one HTML page, tables, figures"),
    "export": ("export:export", "attention -> QuPath GeoJSON and PNG; features -> HDF5"),
    "import": ("files:import_bags", "plain arrays -> a store"),
    "doctor": ("doctor:doctor", "slides, labels, weights, space: what would go wrong"),
    "verify": ("files:verify", "read a whole store and name what is damaged"),
    "merge": ("merge:merge", "stores that were written apart -> one store"),
    "encoders": ("encoders:encoders", "the catalogue of encoders"),
    "similarity": ("similarity:similarity", "two encoders, the same patches -> CKA by block"),
    "gain": ("gain:gain", "a linear probe a layer: pretrained against random weights"),
    "study": ("study:study", "a whole comparison from one YAML"),
    "paint": ("files:paint", "painted slides for a trial"),
    "mosaic": ("files:mosaic", "labelled tiles -> small slides of tiles of one class"),
}


def main(arguments: Sequence[str]) -> int:
    """Run a verb and return its exit code.

    Codes: 0 done; 1 an error that the message explains; 2 a mistyped command; 3 done, but some
    slides could not be read; 130 interrupted.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"{__version__}\n")
        return 0
    verb, *rest = arguments
    if verb not in _VERBS:
        return _unknown(verb)
    function = _load(verb)
    keep_freed_memory()
    _quieten()
    whole = [verb, *rest] if _VERBS[verb][0] == "network:run" else rest
    try:
        return function(whole)
    except (HistoTransferError, ValueError) as error:
        # jsonargparse wraps what a constructor refuses.
        known = error if isinstance(error, HistoTransferError) else error.__cause__
        if not isinstance(known, HistoTransferError):
            raise
        sys.stderr.write(f"error: {known}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was complete is kept\n")
        return 130


def usage() -> str:
    """The verbs, one a line."""
    lines = [f"  {verb:<10}{text}" for verb, (_, text) in _VERBS.items()]
    return (
        "usage: python -m histotransfer_pl VERB [--config FILE.yaml] [--key value ...]\n\n"
        + "\n".join(lines)
        + "\n\nVERB --help lists its settings, VERB --print_config writes them as YAML.\n"
    )


def _load(verb: str) -> Callable[[list[str]], int]:
    """Import late: torch and Lightning take seconds, help and mistypings should not."""
    module, name = _VERBS[verb][0].split(":")
    function: Callable[[list[str]], int] = getattr(
        import_module(f"histotransfer_pl.cli.{module}"), name
    )
    return function


def _unknown(verb: str) -> int:
    import difflib

    close = difflib.get_close_matches(verb, _VERBS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    sys.stderr.write(f"error: no verb {verb!r}{hint}; verbs: {', '.join(_VERBS)}\n")
    return 2


def _quieten() -> None:
    """Leave out what a user cannot act on; everything else stays."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("histotransfer_pl")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    # Its tips and its list of absent accelerators; warnings stay.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (
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
    ):
        warnings.filterwarnings("ignore", message)
    os.environ.setdefault("WANDB_SILENT", "true")
