"""The encoders that are known by name."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from histotransfer_pl.encoders.colour import COLOUR_ENTRY
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.entry import EncoderEntry
from histotransfer_pl.encoders.foundation import FOUNDATION_ENTRIES
from histotransfer_pl.encoders.histopathology import HISTOPATHOLOGY_ENTRIES
from histotransfer_pl.encoders.hub import hub_entry
from histotransfer_pl.encoders.natural import IMAGENET_ENTRIES, NATURAL_ENTRIES
from histotransfer_pl.encoders.own import own_entry
from histotransfer_pl.encoders.timm_models import timm_entry
from histotransfer_pl.errors import EncoderError

CATALOGUE: Mapping[str, EncoderEntry] = MappingProxyType(
    {
        entry.name: entry
        for entries in (
            IMAGENET_ENTRIES,
            NATURAL_ENTRIES,
            HISTOPATHOLOGY_ENTRIES,
            FOUNDATION_ENTRIES,
        )
        for entry in entries
    }
)
"""Every entry by its name; networks of natural images first."""


def find_entry(name: str, *, allow_download: bool = False) -> EncoderEntry:
    """The entry of an encoder.

    Args:
        name: A name of the catalogue, `timm:<name>` for any network of timm,
            `hf-hub:<owner>/<repository>` for one that was published in timm's format, or the path
            of a YAML file that describes an encoder; `colour` for mean and deviation of the
            channels, the control without a network.
        allow_download: Whether the description of a hub repository may be fetched.

    Raises:
        EncoderError: If there is no such encoder; the message names the nearest ones.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    if name == COLOUR_ENTRY.name:
        return COLOUR_ENTRY
    if name.endswith((".yaml", ".yml")):
        return own_entry(Path(name))
    kind, _, rest = name.partition(":")
    if rest and kind == "timm":
        return timm_entry(rest)
    if rest and kind in ("hf-hub", "hf_hub"):
        return hub_entry(rest, allow_download=allow_download)
    near = difflib.get_close_matches(name, CATALOGUE, n=3, cutoff=0.4) or list(CATALOGUE)
    raise EncoderError(
        f"no encoder is called {name!r}; near it are {', '.join(near)}. "
        "Any other network: timm:<name>, hf-hub:<owner>/<repository>, or a YAML file of your own"
    )


def configured_entry(config: EncoderConfig) -> EncoderEntry:
    """The entry of a config, with its pooling and arguments.

    Raises:
        EncoderError: If there is no such encoder.
    """
    entry = find_entry(config.name, allow_download=config.allow_download)
    return replace(
        entry,
        pooling=entry.pooling if config.pooling == "default" else config.pooling,
        options={**entry.options, **config.model_args},
    )
