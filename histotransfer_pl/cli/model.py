"""The verbs of trained models: ``package`` and ``apply``."""

from pathlib import Path

from histotransfer_pl.cli.answer import print_line, record
from histotransfer_pl.cli.functions import SLIDES_FAILED, run_function


def package(arguments: list[str]) -> int:
    """A run -> one model file."""
    return run_function(_package, arguments, "package")


def _package(
    run_dir: Path,
    out: Path = Path("model.safetensors"),
    weights: Path | None = None,
    embed: bool | None = None,
) -> int:
    """Write a run as one file that apply opens anywhere.

    Args:
        run_dir: Folder of a finished run, best after ``test``.
        out: File to write, ``.safetensors``.
        weights: File of the encoder's weights, if not where the encoder itself looks.
        embed: Whether the encoder's weights are copied into the file; by default where their
            licence allows it.
    """
    from histotransfer_pl.inference.package import package

    print_line(package(run_dir, out, weights, embed))
    record(files=(out,))
    return 0


def apply(arguments: list[str]) -> int:
    """A model, or several as an ensemble, on new slides."""
    return run_function(_apply, arguments, "apply")


def _apply(
    model: list[Path],
    slides: Path | None = None,
    out: Path = Path("applied"),
    store: str | None = None,
    arm: list[str] | None = None,
    slide_mpp: float | None = None,
    weights: Path | None = None,
    pictures: bool = True,
    top_k: int = 64,
    allow_foreign: bool = False,
    threads: int | None = None,
    batch_size: int | None = None,
    trainer: dict[str, str | int | float | bool | None] | None = None,
) -> int:
    """Classify slides that no table of the training knows: no labels, cohort or network needed.

    Args:
        model: Model files, run folders, or study folders (see ``arm``); several are an ensemble.
        slides: Folder of slides, or a CSV table with ``slide_id`` and optionally ``path``, ``mpp``,
            and ``patient_id``, which models whose bags are patients need.
        out: Folder of the results; the same command goes on where it was interrupted.
        store: Store with features of these models; then ``slides`` may be a table of some of them.
        arm: Which arm of a study, such as ``[encoder=resnet18, depth=layer3]``.
        slide_mpp: Micrometres per pixel of slides whose file does not say it.
        weights: File with the encoder's weights, where the model file does not hold them.
        pictures: Draw attention and the page.
        top_k: So many patches at most are marked as top attention.
        allow_foreign: Allow a head of another package, whose code is executed.
        threads: Threads that read slides.
        batch_size: Patches that are encoded at once.
        trainer: Arguments of the Trainer that encodes, such as ``{precision: 16-mixed}``.
    """
    from histotransfer_pl.inference.apply import apply
    from histotransfer_pl.inference.ensemble import find_models

    data = {"threads": threads, "batch_size": batch_size}
    applied = apply(
        find_models(model, arm or ()),
        slides,
        out,
        store=store,
        slide_mpp=slide_mpp,
        weights=weights,
        pictures=pictures,
        top_k=top_k,
        allow_foreign=allow_foreign,
        trainer=trainer,
        data={key: value for key, value in data.items() if value is not None},
    )
    for slide_id, reason in applied.failed.items():
        print_line(f"failed: {slide_id}: {reason}")
    page = " and index.html" if pictures else ""
    print_line(
        f"{len(applied.predictions)} slides classified, {len(applied.failed)} failed; wrote "
        f"{applied.out}/predictions.csv{page}"
    )
    record(
        files=(
            applied.out / "predictions.csv",
            *([applied.out / "index.html"] if pictures else []),
        ),
        metrics={"slides": len(applied.predictions)},
        failures=dict(applied.failed),
    )
    return SLIDES_FAILED if applied.failed else 0
