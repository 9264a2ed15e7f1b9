"""A run as one model file, with its model card."""

import json
from pathlib import Path

import yaml

from histotransfer_pl.encoders.catalogue import CATALOGUE
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.inference.certainty import basis_in_words
from histotransfer_pl.inference.encoder import encoder_weights, may_copy
from histotransfer_pl.records.done import Done
from histotransfer_pl.runs.model import SlideClassifier
from histotransfer_pl.runs.model_file import load_model, save_model

_METRICS = ("auroc", "auprc", "balanced_accuracy", "f1", "brier", "ece")


def package(
    run_dir: str | Path,
    out: str | Path = "model.safetensors",
    weights: str | Path | None = None,
    embed: bool | None = None,
) -> Done:
    """Write a run as one file that ``apply`` and ``load_model`` open anywhere.

    Args:
        run_dir: Folder of a finished run, best after ``test``, and after ``predict``, whose
            validation slides calibrate its probabilities.
        out: File to write, ``.safetensors``.
        weights: File of the encoder's weights, if not where the encoder itself looks.
        embed: Whether the encoder's weights are copied into the file; by default where their
            licence allows it. Otherwise their hash goes in, and where to get them.

    Raises:
        ConfigError: No finished run, or a file of another ending.
        WeightsError: The weights to copy are not on this machine.
    """
    run_dir, out = Path(run_dir), Path(out)
    weights = None if weights is None else Path(weights)
    if out.suffix != ".safetensors":
        raise ConfigError(f"out is {out}: give a name that ends in .safetensors")
    model = load_model(run_dir, allow_foreign=True)
    spec = model.record.features.encoder
    copied = model.encoder
    known = bool(spec.architecture) and spec.weights.kind != "imported"
    wanted = known and (may_copy(spec) if embed is None else embed)
    if copied is None and wanted:
        copied = encoder_weights(model.record.features, weights)
    entry = CATALOGUE.get(spec.name)
    licence = "unknown" if entry is None else entry.licence
    facts = {
        "encoder_licence": licence,
        "encoder_page": "" if entry is None else entry.source.page,
        "encoder_citation": "" if entry is None else entry.citation,
    }
    save_model(model, out, model_card(model, run_dir, licence), copied, facts)
    if not known:
        words = "features were imported, so the file holds the head only"
    elif copied:
        words = f"with the weights of {spec.name} ({licence})"
    else:
        words = f"without the weights of {spec.name} ({licence}): they must be on the machine"
    lines = [f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB, {words}"]
    if basis := basis_in_words([model], None):
        lines.append(basis)
    return Done(lines, [out])


def model_card(model: SlideClassifier, run_dir: Path, licence: str) -> str:
    """What a user of the model must know, as Markdown; the intended use is left to its maker."""
    record = model.record
    features, target = record.features, record.target
    grid = "" if record.grid is None else yaml.safe_dump(record.grid.to_json(), sort_keys=False)
    counts = "\n".join(f"- {name}: {n}" for name, n in record.counts.items()) or "- not recorded"
    positive = f", positive: {target.positive}" if target.positive else ""
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    return f"""# Model card

- **Intended use**: (to be filled in by whoever releases the model)
- **Not for**: diagnosis; slides of another stain, scanner or organ than those below
- **Predicts**: column `{target.column}`, classes {", ".join(target.classes)}{positive}
- **Encoder**: {features.encoder.name} at {", ".join(features.depths)} ({features.width} values),
  weights {features.encoder.weights.kind} {features.encoder.weights.origin}, licence {licence}
- **Head**: {record.head.class_path.rpartition(".")[2]}, one bag per {record.bag}
- **Calibration**: {_calibration(model)}
- **Id**: {model.id}

## Data

{counts}
- patients trained on: {len(record.train_patients)}; who chose the epoch:
  {len(record.validation_patients)} (in the file as salted hashes only)

## Metrics on the test part, with 95 % intervals over patients

{_metrics(run_dir)}

## Patches

```yaml
{grid or "features without coordinates"}
```

Made with {versions}.
"""


def _calibration(model: SlideClassifier) -> str:
    known = model.calibration
    if known is None:
        return "as the network gives them, not calibrated"
    return f"temperature {known.temperature:.3g}, fitted on {known.in_words()}"


def _metrics(run_dir: Path) -> str:
    path = run_dir / "test_metrics.json"
    if not path.is_file():
        return "Not tested: run `test` and package again."
    found = json.loads(path.read_text(encoding="utf-8"))
    lines = [f"{found.get('n_slides')} slides of {found.get('n_patients')} patients"]
    for name in _METRICS:
        value, low = found.get(name), found.get(f"{name}_low")
        if value is not None:
            high = found.get(f"{name}_high")
            span = "" if low is None else f" [{low:.4f}, {high:.4f}]"
            lines.append(f"{name}: {value:.4f}{span}")
    return "\n".join(f"- {line}" for line in lines)
