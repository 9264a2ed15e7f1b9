"""Words of the command line: spellings that are accepted, flags, and what is meant by others.

A word means one thing: ``--slides`` the folder of the slides, ``--run_dir`` the folder of a run,
``--runs`` several of them, ``--top_k`` a number of patches. Earlier spellings stay accepted.
"""

import difflib
import sys
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

_RUNS = ("fit", "validate", "test", "predict")
_DATA = {"--slides": "--data.slides", "--store": "--data.store", "--cohort": "--data.cohort"}
_ENCODER = {"--encoder": "--model.encoder", "--weights": "--model.weights",
            "--depths": "--model.depths"}  # fmt: skip
SHORT: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "extract": {**_DATA, **_ENCODER},
        "tile": _DATA,
        **dict.fromkeys(_RUNS, _DATA),
    }
)
"""Short for an option, by verb."""
EARLIER: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "export": {"--run": "--run_dir", "--slides": "--slide_ids"},
        "select": {"--run": "--run_dir", "--k": "--top_k"},
        "report": {"--slides": "--n_slides"},
        "encoders": {"--json_format": "--json"},
    }
)
"""What an option was called before, by verb."""
MEANT: Mapping[str, str] = MappingProxyType(
    {
        "train": "fit", "finetune": "fit", "eval": "test", "evaluate": "test", "infer": "apply",
        "inference": "apply", "classify": "apply", "heatmap": "export", "attention": "export",
        "qupath": "export", "features": "extract", "embed": "extract", "encode": "extract",
        "patch": "tile", "segment": "tile", "preprocess": "tile", "check": "doctor",
        "benchmark": "study", "compare": "study", "cka": "similarity", "probe": "gain",
        "models": "encoders", "list": "encoders", "new": "init", "convert": "import",
    }
)  # fmt: skip
"""Words of the field for what is called otherwise here."""
_HELP_OF = {
    "--data.help": "histotransfer_pl.data.features.FeatureDataModule",
    "--model.help": "histotransfer_pl.tasks.mil.AttentionMIL",
}
"""Of which class help is shown if none is named."""
_TAKES_NOTHING = ("-h", "--help", "--help_all", "--print_config", "--version", "--json",
                  "--dry_run")  # fmt: skip


def translate_words(verb: str, words: Sequence[str]) -> list[str]:
    """Words as the parser of a verb takes them.

    Short and earlier spellings become the option; an option without a value is a flag, so
    ``--overwrite`` is ``--overwrite true``.

    Example:
        >>> translate_words("fit", ["--store", "s.zarr", "--overwrite"])
        ['--data.store', 's.zarr', '--overwrite', 'true']
    """
    found: list[str] = []
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        earlier = EARLIER.get(verb, {}).get(name)
        if earlier is not None:
            sys.stderr.write(f"{verb}: {name} is now {earlier}; both are accepted\n")
        found.append((earlier or SHORT.get(verb, {}).get(name, name)) + equals + value)
        following = words[place + 1] if place + 1 < len(words) else "--"
        if equals or not name.startswith("--") or not following.startswith("--"):
            continue
        if name in _HELP_OF and verb in _RUNS:
            found.append(_HELP_OF[name])
        elif verb != "study" and _is_flag(name):  # a study's overrides are settings of any verb
            found.append("true")
    return found


def _is_flag(name: str) -> bool:
    return name not in _TAKES_NOTHING and not name.endswith(".help")


def nearest_verb(word: str, verbs: Collection[str]) -> str | None:
    """The verb that somebody means who types another word."""
    lowered = word.lower().strip("-")
    if lowered in verbs:
        return lowered
    if MEANT.get(lowered) in verbs:
        return MEANT[lowered]
    close = difflib.get_close_matches(lowered, [*verbs, *MEANT], n=1)
    return MEANT.get(close[0], close[0]) if close else None
