"""Help on one page: our own settings of a verb, in groups, with their defaults.

The parser's own help also lists every argument of the Trainer and of each class that could be
given; ``--help_all`` shows it.
"""

import inspect

from jsonargparse._parameter_resolvers import get_signature_parameters

_WIDTH = 100
_OURS = {
    "fit": ("AttentionMIL", "FeatureDataModule"),
    "validate": ("AttentionMIL", "FeatureDataModule"),
    "test": ("AttentionMIL", "FeatureDataModule"),
    "predict": ("AttentionMIL", "FeatureDataModule"),
    "extract": ("FeatureExtractor", "PatchDataModule"),
}
_TRAINER = {
    "trainer.max_epochs": "epochs at most (default: 50)",
    "trainer.accelerator": "cpu, gpu ... (default: auto)",
    "trainer.devices": "how many of them (default: auto)",
    "trainer.strategy": "ddp for several devices (default: auto)",
    "trainer.precision": "bf16-mixed, 16-mixed, 32-true (default: 32-true; extract: by device)",
}
_RUN = {
    "config": "YAML file of the settings below",
    "run_dir": "folder of the run (default: runs/default)",
    "overwrite": "replace a run that is in the folder",
    "output_dir": "where test and predict write, if not into the run folder",
    "ckpt_path": "fit: last, to go on; test, predict: another checkpoint than the best",
    "checkpoint.monitor": "which validation metric chooses the epoch (default: val/loss)",
    "checkpoint.patience": "fit ends after so many epochs without a better one (default: 10)",
    "seed_everything": "seed of everything random (default: 0)",
}


def has_short_help(verb: str) -> bool:
    """Whether the verb drives a Trainer."""
    return verb in _OURS


def short_help(verb: str) -> str:
    """The settings of a verb that drives a Trainer, one line each."""
    from histotransfer_pl.data.features import FeatureDataModule
    from histotransfer_pl.data.patches import PatchDataModule
    from histotransfer_pl.tasks.extract import FeatureExtractor
    from histotransfer_pl.tasks.mil import AttentionMIL

    ours = (FeatureDataModule, PatchDataModule, FeatureExtractor, AttentionMIL)
    classes: dict[str, type] = {cls.__name__: cls for cls in ours}
    model, data = (classes[name] for name in _OURS[verb])
    general = {"config": _RUN["config"]} if verb == "extract" else _RUN
    return "\n".join(
        [
            f"usage: histotransfer_pl {verb} [--config FILE.yaml] [--key value ...]",
            *_group("The run", general),
            *_group(f"Data ({data.__name__})", describe_settings(data, "data")),
            *_group(f"Model ({model.__name__})", describe_settings(model, "model")),
            *_group("Trainer", _TRAINER),
            "",
            "--help_all lists every setting of the Trainer and of other classes; --print_config",
            "writes the settings as YAML. data.class_path and model.class_path: other classes.",
            "",
        ]
    )


def describe_settings(cls: type, prefix: str) -> dict[str, str]:
    """Settings of a class with the first sentence of their description and their default."""
    found = {}
    for setting in get_signature_parameters(cls):
        said = " ".join((setting.doc or "").split())
        text = said.split(". ")[0].split("; ")[0].rstrip(".")
        needed = setting.default is inspect.Parameter.empty
        default = "must be given" if needed else f"default: {_short(setting.default)}"
        found[f"{prefix}.{setting.name}"] = f"{text} ({default})"
    return found


def _short(value: object) -> str:
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    text = str(value)
    return text if len(text) < 24 and "(" not in text else "see --print_config"


def _group(title: str, settings: dict[str, str]) -> list[str]:
    width = max(map(len, settings)) + 2
    room = _WIDTH - width - 4
    return ["", f"{title}:", *(f"  --{n:<{width}}{_fit(t, room)}" for n, t in settings.items())]


def _fit(text: str, room: int) -> str:
    """The description cut where it is too long, the default behind it whole."""
    description, bracket, default = text.rpartition(" (")
    if len(text) <= room or not bracket:
        return text
    return f"{description[: room - len(default) - 6].rstrip()} ... ({default}"
