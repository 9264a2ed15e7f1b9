"""The record of a run: the configuration of each stage, and what it is."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override

from histotransfer_pl.records.files import sha256_of, write_text
from histotransfer_pl.runs.record import ALL_PREDICTIONS, RUN_FILE, write_run
from histotransfer_pl.tasks.slide_model import SlideModel

STALE = (
    *("test_predictions.csv", "test_confusion.csv", "test_metrics.json", ALL_PREDICTIONS),
    *("encoder.safetensors", "unreadable_patches.csv", "tuning_cost.json"),
    *("config_test.yaml", "config_predict.yaml"),
    *("checkpoints/best.ckpt", "checkpoints/last.ckpt", RUN_FILE),
)
"""What an earlier fit left in a run folder and would be taken for the new one's."""


class RunRecordWriter(SaveConfigCallback):
    """Saves ``config.yaml`` for ``fit`` and ``config_<stage>.yaml`` otherwise.

    One file per stage, replaced whole, so that a run can be fitted, tested and fitted again in its
    folder; that of a fit is written when training begins, so that a refused setting leaves the old
    record alone. A new fit takes away what an earlier one left.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Only the file; Lightning's own would refuse a second run in the folder."""
        if trainer.is_global_zero and stage != "fit":
            self.save_config(trainer, pl_module, stage)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        # one that goes on changes what predict said: thresholds and calibration rest on that
        for name in STALE if trainer.ckpt_path is None else (ALL_PREDICTIONS,):
            (Path(trainer.default_root_dir) / name).unlink(missing_ok=True)
        self.save_config(trainer, pl_module, "fit")

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Lightning passes an enumeration whose text is not its value.
        word = str(getattr(stage, "value", stage))
        name = "config.yaml" if word == "fit" else f"config_{word}.yaml"
        text = self.parser.dump(self.config, skip_none=False, format="yaml")
        write_text(Path(trainer.default_root_dir) / name, text)


class RunIdentity(Callback):
    """Writes ``run.json``: the id of the run (the hash of its best checkpoint) and its record.

    Readers of a run need neither torch nor the checkpoint then.
    """

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        best = folder / "checkpoints" / "best.ckpt"
        if not trainer.is_global_zero or not best.is_file():
            return
        if isinstance(pl_module, SlideModel) and pl_module.record is not None:
            write_run(folder, sha256_of(best), pl_module.record)

    # Runs of earlier releases, which have none, get theirs here.
    on_test_end = on_predict_end = on_fit_end
