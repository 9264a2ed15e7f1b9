"""Figures, pictures and tables, as each logger takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import wandb
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from numpy.typing import NDArray


@dataclass(frozen=True)
class CaptionedImage:
    """A picture (H, W, 3), uint8, and what is under it."""

    pixels: NDArray[np.uint8]
    caption: str


_PER_INCH = 100
"""Pixels of pictures and figures per inch."""
Media = Figure | Sequence[CaptionedImage] | pd.DataFrame


@singledispatch
def log_media(logger: Logger, media: Mapping[str, Media], step: int) -> None:
    """Give media to a logger; one that is not known here gets the numbers only.

    Args:
        logger: Any logger of Lightning.
        media: By name, such as ``val/roc``.
        step: Training step at which they were made.
    """


@log_media.register
def _(logger: WandbLogger, media: Mapping[str, Media], step: int) -> None:
    found: dict[str, Any] = {"trainer/global_step": step}
    for name, item in media.items():
        if isinstance(item, Figure):
            found[name] = wandb.Image(item)
        elif isinstance(item, pd.DataFrame):
            found[name] = wandb.Table(dataframe=item)
        else:
            found[name] = [wandb.Image(image.pixels, caption=image.caption) for image in item]
    logger.experiment.log(found)


@log_media.register
def _(logger: TensorBoardLogger, media: Mapping[str, Media], step: int) -> None:
    for name, item in media.items():
        if isinstance(item, pd.DataFrame):
            lines = item.to_string(index=False).splitlines()
            logger.experiment.add_text(name, "\n".join(f"    {line}" for line in lines), step)
            continue
        figure = item if isinstance(item, Figure) else row_of_images(item)
        logger.experiment.add_figure(name, figure, step, close=figure is not item)


@log_media.register
def _(logger: MLFlowLogger, media: Mapping[str, Media], step: int) -> None:
    client, run_id = logger.experiment, logger.run_id
    for name, item in media.items():
        if isinstance(item, pd.DataFrame):
            client.log_text(run_id, item.to_csv(index=False), f"{name}-{step}.csv")
            continue
        figure = item if isinstance(item, Figure) else row_of_images(item)
        client.log_figure(run_id, figure, f"{name}-{step}.png")
        if figure is not item:
            plt.close(figure)


def row_of_images(images: Sequence[CaptionedImage]) -> Figure:
    """Pictures side by side with their captions, for loggers whose images bear no text."""
    height, width = np.max([image.pixels.shape[:2] for image in images], axis=0) / _PER_INCH
    size = (max(2, width) * len(images), max(2, height) + 0.5)
    figure, axes = plt.subplots(
        1, len(images), figsize=size, dpi=_PER_INCH, squeeze=False, layout="constrained"
    )
    for axis, image in zip(axes[0], images, strict=True):
        axis.imshow(image.pixels)
        axis.set_title(image.caption, fontsize=7, wrap=True)
        axis.set_axis_off()
    return figure
