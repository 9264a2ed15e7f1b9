"""The record of a run: the configuration of each stage."""

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override

from histotransfer_pl.records.files import write_text


class RunRecord(SaveConfigCallback):
    """Saves ``config.yaml`` for ``fit`` and ``config_<stage>.yaml`` otherwise.

    One file a stage, replaced whole, so that a run can be fitted, tested and fitted again in its
    folder; the file is written when training begins, so that a refused setting leaves the old
    record alone.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Only the file; Lightning's own would refuse a second run in the folder."""
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, stage)

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Lightning passes an enumeration whose text is not its value.
        word = str(getattr(stage, "value", stage))
        name = "config.yaml" if word == "fit" else f"config_{word}.yaml"
        text = self.parser.dump(self.config, skip_none=False, format="yaml")
        write_text(Path(trainer.default_root_dir) / name, text)
