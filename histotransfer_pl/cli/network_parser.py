"""The parser of the verbs that drive a Trainer: it knows the classes that a file may name."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from histotransfer_pl.cli.parser import OneLineError
from histotransfer_pl.models.heads import MILHead


class Parser(OneLineError, LightningArgumentParser):  # noqa: N818 - a parser
    """Parser of the verbs that drive a Trainer."""

    @override
    def get_defaults(self, *args: Any, **kwargs: Any) -> Namespace:
        """Defaults that say which class, and leave its settings to the class.

        A class given instead would else inherit those that have the same name in both.
        """
        defaults = super().get_defaults(*args, **kwargs)
        for section in ("data", "model"):
            if isinstance(chosen := defaults.get(section), Namespace):
                chosen.pop("init_args", None)
        return defaults

    @override
    def known_options(self) -> set[str]:
        """Dotted names of the options, and the settings of classes that can be given."""
        bare = {
            name
            for cls in (*_classes(), Trainer, ModelCheckpoint)
            for name in inspect.signature(cls).parameters
        }
        prefixed = {f"{group}.{name}" for group in ("model", "data") for name in bare}
        return super().known_options() | bare | prefixed

    @override
    def class_names(self) -> set[str]:
        ours = {cls.__name__ for cls in _classes()}
        return ours | {name for name in vars(torch.optim) if name[0].isupper()}


def _classes() -> Iterator[type]:
    """Every class of ours that a configuration may name; they were imported by then."""
    for base in (LightningModule, LightningDataModule, MILHead):
        pending: list[type] = [base]
        while pending:
            cls = pending.pop()
            pending += cls.__subclasses__()
            if cls.__module__.startswith("histotransfer_pl."):
                yield cls
