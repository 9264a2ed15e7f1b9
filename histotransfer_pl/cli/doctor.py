"""The verb ``doctor``: what would go wrong, before it does."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotransfer_pl.cli.answer import print_line, record
from histotransfer_pl.cli.functions import run_function
from histotransfer_pl.data.stored_depths import StoredDepths
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.grid import GridSettings, SlideMpp
from histotransfer_pl.records.yaml_files import read_yaml

if TYPE_CHECKING:
    from histotransfer_pl.data.checkup import Finding

_OWN = (
    "slides",
    "cohort",
    "target",
    "n_folds",
    "store",
    "encoder",
    "encoders",
    "grid",
    "slide_mpp",
)


def doctor(arguments: list[str]) -> int:
    """Look at slides, labels, weights, space and the store before a long job."""
    return run_function(_doctor, as_doctor_settings(arguments), "doctor")


def as_doctor_settings(arguments: list[str]) -> list[str]:
    """A configuration of ``extract``, ``fit`` or ``study`` as settings of this verb.

    Raises:
        ConfigError: It cannot be read.
    """
    words = list(arguments)
    for place in range(len(words) - 1):
        if words[place] != "--config":
            continue
        path = Path(words[place + 1])
        try:
            content = read_yaml(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        if isinstance(content, dict):
            study = {"study": str(path)} if "heads" in content else {}
            words[place + 1] = json.dumps(doctor_settings(content) | study)
    return words


def doctor_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """What this verb looks at, of a configuration of another."""
    data, model = content.get("data"), content.get("model")
    if not isinstance(data, Mapping):
        found = {key: value for key, value in content.items() if key in _OWN}
        if "heads" in content:  # a study may tune many large encoders: they are counted, not built
            found.pop("encoders", None)
            found.pop("store", None)  # what a study keeps of each depth, not where
        folds = content.get("folds")
        if isinstance(folds, Mapping) and "n_folds" in folds:
            found["n_folds"] = folds["n_folds"]
        return found
    settings = data.get("init_args", data)
    found = {key: value for key, value in settings.items() if key in _OWN and key != "encoder"}
    if isinstance(model, Mapping) and "init_args" not in model:
        keep = {key: model[key] for key in ("means", "full") if key in model}
        found |= {"keep": keep} if keep else {}
        if model.get("encoders"):
            found["encoders"] = model["encoders"]
        elif model.get("encoder"):
            depths = model.get("depths")
            named = (
                [depths] if isinstance(depths, str) and depths not in ("all", "last") else depths
            )
            given = {"name": model["encoder"], "weights": model.get("weights"), "depths": named}
            found["encoder"] = {key: value for key, value in given.items() if value is not None}
    return found


def _doctor(
    slides: Path | None = None,
    cohort: Path | None = None,
    target: str = "label",
    n_folds: int = 5,
    store: str | None = None,
    encoder: EncoderConfig | None = None,
    encoders: list[EncoderConfig] | None = None,
    grid: GridSettings = GridSettings(),
    slide_mpp: SlideMpp = None,
    sample: int = 5,
    study: Path | None = None,
    macs_per_s: float | None = None,
    keep: StoredDepths = StoredDepths(),
) -> int:
    """Look at slides, labels, weights, space and the store before a long job.

    Whatever is given is looked at. The exit code is 1 if anything stands in the way.

    Args:
        slides: Folder of the slides.
        cohort: Cohort table.
        target: Its column with the class.
        n_folds: Folds that a fit will want.
        store: Store, a folder or a URL, which is read whole if it exists.
        encoder: Encoder to build; with slides, time and space are estimated too.
        encoders: Several of them.
        grid: Patches to count.
        slide_mpp: Micrometres per pixel of level 0 for slides that know none, or ``native``.
        sample: Slides to tile for the estimate.
        study: File of a study, to tell its weights, hours of a GPU and disk; --config will do.
        macs_per_s: Multiply-accumulates per second of the device that the study will run on;
            measured where there is a GPU, else those of one H100.
        keep: What the store will keep of each depth, as ``model.means`` and ``model.full`` of
            ``extract`` say it.
    """
    if study is not None:
        from histotransfer_pl.cli.doctor_study import study_findings

        return _print(study_findings(study, sample, macs_per_s))
    networks = [*([] if encoder is None else [encoder]), *(encoders or [])]
    if slides is None and cohort is None and store is None and not networks:
        raise ConfigError(
            "nothing to look at: give --config of extract, fit or study, or --slides, --cohort, "
            "--store or --encoder.name"
        )
    from histotransfer_pl.data.checkup import check_up

    return _print(
        check_up(slides, cohort, target, n_folds, store, networks, grid, slide_mpp, sample, keep)
    )


def _print(found: "Iterable[Finding]") -> int:
    findings = list(found)
    failures = {f.subject: f.text for f in findings if f.problem}
    record(failures=failures, metrics={"problems": len(failures)})
    for finding in findings:
        print_line(
            f"{'PROBLEM' if finding.problem else 'ok     '} {finding.subject:<8} {finding.text}"
        )
    problems = sum(finding.problem for finding in findings)
    print_line(f"{problems} problem{'' if problems == 1 else 's'}")
    return 1 if problems else 0
