"""The verb ``apply``: a trained model on new slides."""

from pathlib import Path

from histotransfer_pl.records.done import Done


def apply(
    model: list[Path],
    slides: Path | None = None,
    out: Path = Path("applied"),
    store: str | None = None,
    arm: list[str] | None = None,
    error: float | None = None,
    slide_mpp: float | None = None,
    weights: Path | None = None,
    pictures: bool = True,
    top_k: int = 64,
    allow_foreign: bool = False,
    threads: int | None = None,
    batch_size: int | None = None,
    trainer: dict[str, str | int | float | bool | None] | None = None,
) -> Done:
    """Classify slides that no table of the training knows: no labels, cohort or network needed.

    Args:
        model: Model files, run folders, or study folders (see ``arm``); several are an ensemble.
        slides: Folder of slides, or a CSV table with ``slide_id`` and optionally ``path``, ``mpp``,
            and ``patient_id``, which models whose bags are patients need.
        out: Folder of the results; the same command goes on where it was interrupted.
        store: Store with features of these models; then ``slides`` may be a table of some of them.
        arm: Which arm of a study, such as ``encoder=resnet18 depth=layer3``.
        error: Write the set of classes of each slide that lacks the true one in this share of new
            patients only, such as 0.1.
        slide_mpp: Micrometres per pixel of slides whose file does not say it.
        weights: File with the encoder's weights, where the model file does not hold them.
        pictures: Draw attention and the page.
        top_k: So many patches at most are marked as top attention.
        allow_foreign: Allow a head of another package, whose code is executed.
        threads: Threads that read slides.
        batch_size: Patches that are encoded at once.
        trainer: Arguments of the Trainer that encodes, such as ``{precision: 16-mixed}``.
    """
    from histotransfer_pl.inference.apply import apply as apply_models
    from histotransfer_pl.inference.ensemble import find_models

    data = {"threads": threads, "batch_size": batch_size}
    applied = apply_models(
        find_models(model, arm or ()),
        slides,
        out,
        store=store,
        error=error,
        slide_mpp=slide_mpp,
        weights=weights,
        pictures=pictures,
        top_k=top_k,
        allow_foreign=allow_foreign,
        trainer=trainer,
        data={key: value for key, value in data.items() if value is not None},
    )
    written = ["predictions.csv", *(["index.html"] if pictures else [])]
    lines = [f"failed: {slide_id}: {reason}" for slide_id, reason in applied.failed.items()]
    lines += [applied.basis] if applied.basis else []
    lines.append(
        f"{len(applied.predictions)} classified, {len(applied.failed)} failed; wrote "
        f"{applied.out}/{' and '.join(written)}"
    )
    metrics = {"slides": len(applied.predictions)}
    return Done(lines, [applied.out / name for name in written], metrics, dict(applied.failed))
