"""``histotransfer_pl VERB``: one function per verb, errors in one line."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module

from histotransfer_pl import __version__
from histotransfer_pl.cli.answer import Answer, as_json
from histotransfer_pl.cli.functions import run_function
from histotransfer_pl.cli.help import has_short_help, short_help
from histotransfer_pl.cli.words import nearest_verb, translate_words
from histotransfer_pl.errors import HistoTransferError
from histotransfer_pl.records.done import INTERRUPTED
from histotransfer_pl.tasks.quiet import quieten_lightning

DEBUG = "HISTOTRANSFER_DEBUG"
"""Environment variable that shows the traceback of what is answered in one line otherwise."""

_OWN_FAULTS = (AttributeError, NameError, AssertionError)
"""What no setting and no file should raise: a report of it needs the whole traceback. All else is
a library that does not take a setting, or the system a path."""

_VERBS: dict[str, tuple[str, str]] = {
    # module of cli : function of the words behind the verb
    # room.module : function whose signature is the command line
    "demo": ("cli.start:demo", "the main job on painted slides, to its report, in minutes"),
    "init": ("cli.start:init", "a commented YAML for your slides, or for a study"),
    "tile": ("files:tile", "slides -> patch coordinates and QC thumbnails"),
    "extract": ("network:extract", "slides -> features in a store"),
    "fit": ("network:run", "train"),
    "validate": ("network:run", "metrics of the validation part"),
    "test": ("network:run", "metrics of the test part"),
    "select": (
        "tasks.selecting:select_patches",
        "attention of a run -> the patches of each slide to tune on",
    ),
    "predict": ("network:run", "predictions and attention of every slide"),
    "package": ("inference.package:package", "a run -> one model file"),
    "apply": (
        "cli.apply:apply",
        "a model, or several, on new slides: predictions, attention, a page",
    ),
    "report": ("report:report", "finished runs -> one HTML page, tables, figures"),
    "export": (
        "report.export:export_slides",
        "attention -> QuPath and figures; features -> CLAM, TRIDENT, STAMP",
    ),
    "import": (
        "cli.files:import_bags",
        "features of CLAM, TRIDENT, STAMP, or plain arrays -> a store",
    ),
    "doctor": ("doctor:doctor", "slides, labels, weights, space: what would go wrong"),
    "verify": ("cli.files:verify", "read a whole store and name what is damaged"),
    "merge": ("cli.files:merge", "stores that were written apart -> one store"),
    "encoders": ("cli.encoders:encoders", "the catalogue of encoders"),
    "similarity": ("similarity:similarity", "two encoders, the same patches -> CKA by block"),
    "gain": (
        "tasks.gain:measure_gain",
        "a linear probe per layer: pretrained against random weights",
    ),
    "study": ("study:study", "a whole comparison from one YAML"),
    "paint": ("cli.files:paint", "painted slides for a trial"),
    "mosaic": ("data.mosaic:lay_out_tiles", "labelled tiles -> slides of tiles of one class"),
}


def main(arguments: Sequence[str]) -> int:
    """Run a verb and return its exit code.

    Codes: 0 done; 1 an error that the message explains; 2 a mistyped command; 3 done, but some
    slides could not be read; 130 interrupted; 143 terminated.
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
    if rest in (["-h"], ["--help"]) and has_short_help(verb):
        sys.stdout.write(short_help(verb))
        return 0
    words = translate_words(verb, ["--help" if word == "--help_all" else word for word in rest])
    if "--json" not in words:
        return _run(verb, words)
    with as_json(verb) as answer:
        place = words.index("--json")
        rest = words[place + 1 :]
        kept = [*words[:place], *(rest[1:] if rest[:1] == ["true"] else rest)]
        answer.exit_code = _run(verb, kept, answer)
    return answer.exit_code


def _run(verb: str, words: list[str], answer: Answer | None = None) -> int:
    """Run a verb; what is known to go wrong is one line on stderr."""
    function = _load(verb)
    _quieten()
    try:
        return function([verb, *words] if _VERBS[verb][0] == "network:run" else words)
    except HistoTransferError as error:
        return _explain(str(error), answer)
    except Exception as error:
        if os.environ.get(DEBUG) or isinstance(error, _OWN_FAULTS):
            raise
        return _explain(in_one_line(error), answer)
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):  # Lightning leaves with 1
            sys.stderr.write("interrupted; what was complete is kept\n")
            return INTERRUPTED
        # The parser: 0 after --help and --print_config, 2 after a mistyped option.
        if answer is None or not ended.code:
            raise
        return int(ended.code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was complete is kept\n")
        return INTERRUPTED


def _explain(message: str, answer: Answer | None) -> int:
    if answer is not None:
        answer.error = message
    sys.stderr.write(f"error: {message}\n")
    return 1


def in_one_line(error: BaseException) -> str:
    """What a library or the system refused, in one line that names the path or the reason.

    Example:
        >>> in_one_line(PermissionError(13, "Permission denied", "runs/a"))
        'runs/a: Permission denied'
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HistoTransferError):  # jsonargparse wraps what a constructor refuses
            return str(cause)
        cause = cause.__cause__
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {' '.join(error.strerror.split())}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else "no reason was given"
    return f"{reason} ({type(error).__name__}; {DEBUG}=1 shows where)"


def usage() -> str:
    """The verbs, one per line."""
    lines = [f"  {verb:<12}{text}" for verb, (_, text) in _VERBS.items()]
    return (
        "usage: histotransfer_pl VERB [--config FILE.yaml] [--key value ...]\n\n"
        + "\n".join(lines)
        + "\n\nVERB --help lists its settings, --help_all all of them, --print_config writes\n"
        "them as YAML, --json answers with one object. Start with: histotransfer_pl demo\n"
    )


def _load(verb: str) -> Callable[[list[str]], int]:
    """Import late: torch and Lightning take seconds, help and mistypings should not."""
    module, name = _VERBS[verb][0].split(":")
    room = "histotransfer_pl" if "." in module else "histotransfer_pl.cli"
    function: Callable[..., int] = getattr(import_module(f"{room}.{module}"), name)
    if room == "histotransfer_pl.cli":
        return function
    return partial(run_function, function, verb=verb)


def _unknown(verb: str) -> int:
    near = nearest_verb(verb, _VERBS)
    hint = f"; did you mean {near}?" if near else ""
    sys.stderr.write(f"error: no verb {verb!r}{hint}; verbs: {', '.join(_VERBS)}\n")
    return 2


def _quieten() -> None:
    """Leave out what a user cannot act on; everything else stays."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("histotransfer_pl")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    quieten_lightning()
    os.environ.setdefault("WANDB_SILENT", "true")
    # A folder of files is what Lightning's MLFlowLogger writes; newer MLflow refuses it unasked.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
