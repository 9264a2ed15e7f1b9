"""Transfer learning on whole-slide images with PyTorch Lightning.

Example:
    >>> import histotransfer_pl
    >>> histotransfer_pl.AttentionMIL(in_features=8, classes=["normal", "tumour"]).beta
    0.0
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histotransfer_pl.analysis.cka import linear_cka
    from histotransfer_pl.api import extract, fit, predict, test
    from histotransfer_pl.data.bags import pack
    from histotransfer_pl.data.features import FeatureDataModule
    from histotransfer_pl.data.topk import TopKPatchDataModule
    from histotransfer_pl.encoders.config import EncoderConfig
    from histotransfer_pl.encoders.encoder import build_encoder
    from histotransfer_pl.inference.apply import apply
    from histotransfer_pl.inference.package import package
    from histotransfer_pl.records.grid import GridSettings
    from histotransfer_pl.runs.model_file import load_model
    from histotransfer_pl.runs.record import load_run
    from histotransfer_pl.store.feature_store import FeatureStore
    from histotransfer_pl.store.joined import open_store
    from histotransfer_pl.tasks.finetune import TopKFineTuner
    from histotransfer_pl.tasks.mil import AttentionMIL

__version__ = "0.1.0"

_PLACES = {
    "open_store": "store.joined",
    "load_model": "runs.model_file",
    "load_run": "runs.record",
    "extract": "api",
    "fit": "api",
    "test": "api",
    "predict": "api",
    "apply": "inference.apply",
    "package": "inference.package",
    "FeatureDataModule": "data.features",
    "TopKPatchDataModule": "data.topk",
    "AttentionMIL": "tasks.mil",
    "TopKFineTuner": "tasks.finetune",
    "build_encoder": "encoders.encoder",
    "EncoderConfig": "encoders.config",
    "GridSettings": "records.grid",
    "FeatureStore": "store.feature_store",
    "linear_cka": "analysis.cka",
    "pack": "data.bags",
}
"""What the package offers, and its module; imported when it is asked for (PEP 562)."""

__all__ = [
    "AttentionMIL",
    "EncoderConfig",
    "FeatureDataModule",
    "FeatureStore",
    "GridSettings",
    "TopKFineTuner",
    "TopKPatchDataModule",
    "__version__",
    "apply",
    "build_encoder",
    "extract",
    "fit",
    "linear_cka",
    "load_model",
    "load_run",
    "open_store",
    "pack",
    "package",
    "predict",
    "test",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(f"{__name__}.tasks.quiet").quieten_lightning()
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
