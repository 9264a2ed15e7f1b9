"""Verbs that push batches through a network: LightningCLI and the Trainer."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from histotransfer_pl.callbacks.best_checkpoint import BestCheckpoint
from histotransfer_pl.callbacks.checkpoint_io import with_atomic_checkpoints
from histotransfer_pl.callbacks.dashboard import Dashboard
from histotransfer_pl.callbacks.feature_writer import FeatureWriter
from histotransfer_pl.callbacks.loggers import default_loggers, with_csv
from histotransfer_pl.callbacks.predictions import PredictionWriter
from histotransfer_pl.callbacks.run_record import RunIdentity, RunRecordWriter
from histotransfer_pl.callbacks.summary import describe_timings
from histotransfer_pl.callbacks.tuned_encoder import FILE, TunedEncoderWriter
from histotransfer_pl.callbacks.tuning_cost import TuningCostWriter
from histotransfer_pl.cli.answer import print_line, record
from histotransfer_pl.cli.network_parser import PARSER_OPTIONS, Parser, PassCLI
from histotransfer_pl.cli.outcomes import print_outcomes
from histotransfer_pl.cli.parser import expand_shard
from histotransfer_pl.cli.requeue import (
    forget_warnings,
    is_restarted,
    point_to_go_on_from,
    print_requeues,
)
from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.data.patches import PatchDataModule
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.done import INTERRUPTED, SLIDES_FAILED, TERMINATED
from histotransfer_pl.records.run import RunRecord
from histotransfer_pl.runs.checkpoints import read_checkpoint, read_record
from histotransfer_pl.runs.own_config import refuse_finished, with_own_config
from histotransfer_pl.tasks.extract import FeatureExtractor, default_precision
from histotransfer_pl.tasks.heap import keep_freed_memory
from histotransfer_pl.tasks.mil import AttentionMIL

_TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 50,
    "num_sanity_val_steps": 0,
    # Bags are shared out to ranks by our own sampler, which counts none twice.
    "use_distributed_sampler": False,
    "enable_model_summary": False,
    # Metrics are logged each epoch.
    "log_every_n_steps": 1,
}


class RunCLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` in a run folder."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run_dir", type=Path, default=Path("runs/default"), help=_RUN_DIR)
        parser.add_argument("--output_dir", type=Path | None, default=None, help=_OUTPUT_DIR)
        parser.add_argument("--overwrite", type=bool, default=False, help=_OVERWRITE)
        parser.add_argument("--wandb_patient_data", type=bool, default=False, help=_PATIENT_DATA)
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "seed_everything": 0,
                "model": {"class_path": f"{AttentionMIL.__module__}.{AttentionMIL.__name__}"},
                "data": {
                    "class_path": f"{FeatureDataModule.__module__}.{FeatureDataModule.__name__}"
                },
                "checkpoint.filename": "best",
                "checkpoint.monitor": "val/loss",
                "checkpoint.patience": 10,
                "checkpoint.enable_version_counter": False,
                "checkpoint.auto_insert_metric_name": False,
            }
        )

    @override
    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would let a checkpoint name classes to import and settings to use."""

    @override
    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self._epochs_done = 0
        self._trained: RunRecord | None = None
        if config.trainer.default_root_dir is not None:
            raise ConfigError("trainer.default_root_dir is set by run_dir: give --run_dir instead")
        folder = checkpoint_folder(config.run_dir)
        config.weights_only = True
        if self.subcommand == "test":
            config.verbose = False  # metrics are printed with their intervals instead
        if self.subcommand == "fit":
            self._require_resumable(config.ckpt_path)
            if config.output_dir is not None:
                raise ConfigError("output_dir is for test and predict: fit writes into run_dir")
            again = config.ckpt_path is None and is_restarted()
            if again:
                config.ckpt_path = point_to_go_on_from(config.run_dir, folder / "last.ckpt")
                print_line(f"SLURM started this job again: it goes on from {config.ckpt_path}")
            forget_warnings(config.run_dir, kept=config.ckpt_path)
            print_requeues()
            allowed = again or config.overwrite or config.ckpt_path is not None
            refuse_finished(config.run_dir, allowed=allowed)
        elif config.ckpt_path is None:
            config.ckpt_path = str(folder / "best.ckpt")
        if config.ckpt_path == "last":
            config.ckpt_path = str(folder / "last.ckpt")
        if config.ckpt_path is not None and not Path(config.ckpt_path).is_file():
            raise ConfigError(
                f"no checkpoint {config.ckpt_path}: run fit with the same --run_dir first, or "
                "give --ckpt_path"
            )
        if config.ckpt_path is not None:
            # Read here, too: it refuses in one line what Lightning would in many.
            content = read_checkpoint(Path(config.ckpt_path))
            self._epochs_done = int(content.get("epoch", -1)) + 1
            self._trained = read_record(content)

    @override
    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        if isinstance(self.datamodule, FeatureDataModule) and self.subcommand != "fit":
            self.datamodule.trained = self._trained

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        # Folders follow from run_dir and are not recorded on their own: a saved configuration
        # with another run_dir must not write into the old run.
        config = self.config_init[self.subcommand]
        kwargs["default_root_dir"] = config.output_dir or config.run_dir
        kwargs["plugins"] = with_atomic_checkpoints(config.trainer.plugins)
        folder = checkpoint_folder(config.run_dir)
        best: BestCheckpoint = config.checkpoint
        best.dirpath = best.dirpath or str(folder)
        if config.trainer.logger is None:
            epochs = self._epochs_done if self.subcommand == "fit" else 0
            place = kwargs["default_root_dir"]
            kwargs["logger"] = default_loggers(place, str(self.subcommand), epochs)
        always = [
            *self.trainer_defaults["callbacks"],
            Dashboard(patient_data=config.wandb_patient_data),
            last_checkpoint(folder),
            *best.early_end(config.trainer.callbacks or ()),
        ]
        self.trainer_defaults = {**self.trainer_defaults, "callbacks": always}
        trainer = super().instantiate_trainer(**kwargs)
        trainer.loggers = with_csv(
            trainer.loggers, kwargs["default_root_dir"], str(self.subcommand)
        )
        return trainer

    def _require_resumable(self, ckpt_path: str | None) -> None:
        """Lightning only warns when there is nothing to resume, and starts afresh."""
        if ckpt_path in ("best", "hpc", "registry"):
            raise ConfigError(f"fit --ckpt_path {ckpt_path}: to go on, give last or a file")


def checkpoint_folder(run_dir: Path) -> Path:
    """Where the checkpoints of a run are."""
    return run_dir / "checkpoints"


def last_checkpoint(folder: Path) -> ModelCheckpoint:
    """Keeps ``last.ckpt`` of every epoch, to resume from.

    The option ``save_last`` of the checkpoint that keeps the best epoch would not do:
    it copies the best one, and only when there is a new best.
    """
    return ModelCheckpoint(
        dirpath=folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True
    )


_RUN_DIR = "Folder of the run: config, checkpoints, metrics and predictions."
_OUTPUT_DIR = "Where test and predict write, if not into the run folder (an external cohort)."
_PATIENT_DATA = "Whether an online W&B board gets slide names and pictures of tissue, too."
_OVERWRITE = "Whether fit may replace a run that is in the folder."


def run(arguments: list[str]) -> int:
    """Run ``fit``, ``validate``, ``test`` or ``predict``."""
    keep_freed_memory()
    callbacks = [PredictionWriter(), RunIdentity(), TunedEncoderWriter(), TuningCostWriter()]
    try:
        cli = RunCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=RunRecordWriter,
            trainer_defaults={**_TRAINER_DEFAULTS, "callbacks": callbacks},
            parser_class=Parser,
            parser_kwargs={
                "prog": "python -m histotransfer_pl",
                **PARSER_OPTIONS,
                **dict.fromkeys(RunCLI.subcommands(), PARSER_OPTIONS),
            },
            args=with_own_config(arguments),
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
    except SIGTERMException:
        sys.stderr.write(f"terminated; go on with: {_resume_command(arguments)}\n")
        return TERMINATED
    except SystemExit as ended:
        if not isinstance(ended.__context__, KeyboardInterrupt):
            raise
        # Lightning leaves with 1 after Ctrl-C, which also means a mistake.
        sys.stderr.write(f"interrupted; go on with: {_resume_command(arguments)}\n")
        return INTERRUPTED
    finally:
        # The next verb of this process must not log into this verb's board.
        wandb.finish()
    print_results(cli.trainer, str(cli.subcommand))
    return 0


def _resume_command(arguments: Sequence[str]) -> str:
    more = ["--ckpt_path", "last"] if arguments[0] == "fit" else []
    return shlex.join(["python", "-m", "histotransfer_pl", *arguments, *more])


def print_results(trainer: Trainer, stage: str) -> None:
    """What the run wrote, and where."""
    if not trainer.is_global_zero:
        return
    settings = vars(trainer)
    if settings["fast_dev_run"] or settings.get(f"limit_{stage}_batches") == 0:
        print_line("a trial (trainer.fast_dev_run, or no batch at all): nothing was written")
        return
    folder = Path(trainer.default_root_dir)
    names = {
        "fit": ["config.yaml", "checkpoints/best.ckpt", "metrics/fit/metrics.csv", FILE],
        "test": ["test_metrics.json", "test_predictions.csv", "test_confusion.csv"],
        "predict": ["predictions.csv"],
    }
    for name in names.get(stage, []):
        if (folder / name).is_file():
            print_line(f"wrote {folder / name}")
            record(files=(folder / name,))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    record(metrics=metrics)
    if stage == "validate":  # `test` prints its own table, with intervals
        for name, value in metrics.items():
            print_line(f"{name:<20} {value:.4f}")


class ExtractCLI(PassCLI):
    """``extract``: ``predict`` with the feature writer."""

    @override
    def before_instantiate_classes(self) -> None:
        trainer = self.config.trainer
        if trainer.precision is None and (chosen := default_precision(trainer.accelerator)):
            trainer.precision = chosen
            print_line(f"encoding in {chosen}; --trainer.precision 32-true for full")


def extract(arguments: list[str]) -> int:
    """Slides -> patch coordinates -> features in a store."""
    writer = FeatureWriter()
    cli = ExtractCLI(
        "extract",
        FeatureExtractor,
        PatchDataModule,
        expand_shard(arguments),
        extract.__doc__,
        [writer],
    )
    cli.trainer.predict(cli.model, cli.datamodule)
    if cli.trainer.interrupted:
        return INTERRUPTED
    if cli.trainer.is_global_zero:
        print_outcomes(writer.outcomes, f"extract into {cli.datamodule.store_path}")
        print_line(describe_timings(writer.timings))
    failures = {name: o.reason for name, o in writer.outcomes.items() if o.state == "failed"}
    patches = sum(outcome.n_patches for outcome in writer.outcomes.values())
    record(
        files=(cli.datamodule.store_path,),
        metrics={"slides": len(writer.outcomes), "patches": patches},
        failures=failures,
    )
    return SLIDES_FAILED if failures else 0
