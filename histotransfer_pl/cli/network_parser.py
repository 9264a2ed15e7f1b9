"""What the verbs that drive a Trainer share: their parser, and one pass without a run folder."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jsonargparse import Namespace
from jsonargparse._parameter_resolvers import get_signature_parameters
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from typing_extensions import override

from histotransfer_pl import __version__
from histotransfer_pl.cli.parser import OneLineError
from histotransfer_pl.models.heads import MILHead

PARSER_OPTIONS: dict[str, Any] = {
    # Abbreviations would let --trainer.max_epoch pass for --trainer.max_epochs.
    "allow_abbrev": False,
    "dump_header": [f"histotransfer_pl=={__version__}"],
}


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
            setting.name
            for cls in (*_classes(), Trainer, ModelCheckpoint)
            for setting in get_signature_parameters(cls)
        }
        prefixed = {f"{group}.{name}" for group in ("model", "data") for name in bare}
        return super().known_options() | bare | prefixed

    @override
    def class_names(self) -> set[str]:
        ours = {cls.__name__ for cls in _classes()}
        return ours | {name for name in vars(torch.optim) if name[0].isupper()}


class PassCLI(LightningCLI):
    """A verb that is one pass of a Trainer over a datamodule, with nothing written by Lightning."""

    def __init__(
        self,
        verb: str,
        model: type[LightningModule],
        data: type[LightningDataModule],
        arguments: list[str],
        description: str | None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        super().__init__(
            model,
            data,
            save_config_callback=None,
            trainer_defaults={
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                "callbacks": list(callbacks),
            },
            parser_class=Parser,
            parser_kwargs={
                "prog": f"python -m histotransfer_pl {verb}",
                "description": description,
                **PARSER_OPTIONS,
            },
            args=arguments,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"seed_everything": 0})


def _classes() -> Iterator[type]:
    """Every class of ours that a configuration may name; they were imported by then."""
    for base in (LightningModule, LightningDataModule, MILHead):
        pending: list[type] = [base]
        while pending:
            cls = pending.pop()
            pending += cls.__subclasses__()
            if cls.__module__.startswith("histotransfer_pl."):
                yield cls
