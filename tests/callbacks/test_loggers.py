"""Metrics are always in CSV files, whatever loggers a configuration names."""

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger

from histotransfer_pl.callbacks.loggers import with_csv


def test_csv_files_are_written_beside_any_logger(tmp_path: Path) -> None:
    for chosen in ([], [DummyLogger()]):
        loggers = with_csv(chosen, tmp_path, "fit")
        assert loggers[: len(chosen)] == chosen
        assert isinstance(loggers[-1], CSVLogger)
        assert Path(loggers[-1].log_dir) == tmp_path / "metrics" / "fit"


def test_a_csv_logger_of_the_users_own_is_enough(tmp_path: Path) -> None:
    own = CSVLogger(tmp_path, name="mine")
    assert with_csv([own], tmp_path, "fit") == [own]
