"""The verbs that train and encode, as functions: settings as keywords, nested as in a YAML file."""

from pathlib import Path
from typing import Any

from histotransfer_pl.cli.main import main
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.runs.record import RunFolder, load_run
from histotransfer_pl.store.joined import Store, StoreLocation, open_stores
from histotransfer_pl.study.options import options


def extract(
    slides: str | Path, store: StoreLocation, encoder: str = "resnet18", **settings: Any
) -> Store:
    """Slides -> features in a store; what the store has already is not made again.

    Args:
        slides: Folder of the slides.
        store: Store to write.
        encoder: Name of the encoder.
        settings: Further settings of the verb, as ``model={"depths": ["layer3"]}``.

    Raises:
        ConfigError: The verb ended with an error; its message stands on the error stream.
    """
    data = {"slides": str(slides), "store": str(store), **settings.pop("data", {})}
    model = {"encoder": encoder, **settings.pop("model", {})}
    _run("extract", {"data": data, "model": model, **settings}, allowed=(0, 3))
    return open_stores(store)


def fit(run_dir: str | Path, **settings: Any) -> RunFolder:
    """Train a head, or encoder and head, in a run folder.

    Args:
        run_dir: Folder of the run.
        settings: Settings of the verb, as ``data={"store": "s.zarr", "cohort": "c.csv"}``.

    Raises:
        ConfigError: The verb ended with an error; its message stands on the error stream.
    """
    return _in_run("fit", run_dir, settings)


def test(run_dir: str | Path, **settings: Any) -> RunFolder:
    """Test a run on the test part of its cohort, or on another one."""
    return _in_run("test", run_dir, settings)


def predict(run_dir: str | Path, **settings: Any) -> RunFolder:
    """Predictions and attention of every slide of a run's store, or of another one."""
    return _in_run("predict", run_dir, settings)


def _in_run(verb: str, run_dir: str | Path, settings: dict[str, Any]) -> RunFolder:
    _run(verb, {"run_dir": str(run_dir), **settings})
    return load_run(Path(run_dir))


def _run(verb: str, settings: dict[str, Any], allowed: tuple[int, ...] = (0,)) -> None:
    code = main([verb, *options(settings)])
    if code not in allowed:
        raise ConfigError(f"{verb} ended with exit code {code}; the error stream says why")
