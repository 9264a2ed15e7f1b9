"""The verb ``gain``: what pretraining adds to each layer, by a linear probe."""

from pathlib import Path
from typing import Literal

from histotransfer_pl.cli.answer import print_line
from histotransfer_pl.cli.functions import run_function
from histotransfer_pl.tasks.gain import measure_gain
from histotransfer_pl.tasks.layer_probe import ProbeSettings
from histotransfer_pl.tasks.similarity import ComparedEncoder


def gain(arguments: list[str]) -> int:
    """Knowledge gain of each layer of an encoder."""
    return run_function(_gain, arguments, "gain")


def _gain(
    encoder: ComparedEncoder,
    output: Path = Path("gain.csv"),
    tiles: Path | None = None,
    label: str = "label",
    group: str = "patient_id",
    images: Path | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    n_tiles: int | None = None,
    store: Path | None = None,
    cohort: Path | None = None,
    strict: bool = True,
    random: list[str] | None = None,
    random_seeds: list[int] = [0, 1, 2, 3, 4],  # noqa: B006 - the parser shows it, none changes it
    random_batchnorm: Literal["reestimated", "initial", "both"] = "reestimated",
    probe: ProbeSettings = ProbeSettings(),  # noqa: B008 - frozen
    batch_size: int = 64,
    device: str = "cpu",
) -> int:
    """Probe every layer of an encoder, and of the same network with random weights.

    Either on labelled tiles, which are encoded here, or on the mean features of labelled slides
    of a store; the random networks then see the patches of the store's grid.

    Args:
        encoder: The pretrained encoder; with a store its name there.
        output: CSV table to write, one row per layer; a JSON file with the facts goes beside it.
        tiles: CSV table of labelled tiles: ``path`` (an image), or ``slide_id``, ``x``, ``y``.
        label: Column of the class.
        group: Column of the patient, or of what else must stay on one side of a split.
        images: Folder of the images or slides of the tiles, the table's own by default; or of
            the slides of the store, if they were moved.
        patch_px: Side of a tile of a slide.
        mpp: Micrometres per pixel of a tile of a slide; the slide's own by default.
        n_tiles: Take this many tiles at random; all by default.
        store: Store with features of the encoder.
        cohort: CSV table with the labels of the slides of the store.
        strict: Refuse labelled slides whose features are missing, as in ``fit``.
        random: Names in the store of random networks that were extracted, to take instead of
            encoding the patches with those of ``random_seeds``.
        random_seeds: Seeds of the random networks.
        random_batchnorm: BatchNorm statistics of the random networks: ``reestimated`` on the
            tiles or patches, ``initial`` (mean 0, variance 1), or ``both``: the gain depends on
            it much. Networks that were extracted have the initial ones.
        probe: Folds and penalties of the probe.
        batch_size: Tiles of a batch.
        device: Where tiles are encoded, ``cpu`` or ``cuda``.
    """
    for line in measure_gain(
        encoder=encoder,
        output=output,
        tiles=tiles,
        label=label,
        group=group,
        images=images,
        patch_px=patch_px,
        mpp=mpp,
        n_tiles=n_tiles,
        store=store,
        cohort=cohort,
        strict=strict,
        random=random,
        random_seeds=random_seeds,
        random_batchnorm=random_batchnorm,
        probe=probe,
        batch_size=batch_size,
        device=device,
    ):
        print_line(line)
    return 0
