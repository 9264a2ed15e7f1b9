"""Figures, tables and patches for the loggers that show them."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from lightning import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay
from torch import Tensor
from typing_extensions import override

from histotransfer_pl.callbacks.board import Board
from histotransfer_pl.callbacks.media import CaptionedImage, Media
from histotransfer_pl.callbacks.predictions import prediction_rows
from histotransfer_pl.data.features import FeatureDataModule
from histotransfer_pl.data.tile import slide_file
from histotransfer_pl.data.topk import TopKPatchDataModule
from histotransfer_pl.errors import SlideError, StoreError
from histotransfer_pl.records.grid import GridSettings
from histotransfer_pl.slides.reader import open_slide
from histotransfer_pl.tasks.finetune import TopKFineTuner, topk_data
from histotransfer_pl.tasks.mil import AttentionMIL
from histotransfer_pl.tasks.slide_model import feature_data, slide_model


class Dashboard(Callback):
    """Logs a ROC curve, a confusion matrix, predictions and top-attended patches.

    Weights & Biases, TensorBoard and MLflow get them; CSV files hold numbers only. Figures are
    those of the last validation epoch of a fit, and of ``validate`` and ``test``. Patches are those
    of the finished fit; while an encoder is tuned they are shown after every validation epoch,
    since what it attends to changes.

    Args:
        slides: Validation slides whose top-attended patches are shown.
        patches: Patches of each of them; at most 8 of a run that tunes the encoder.
        patient_data: Whether a board on another host gets names of slides and pictures of tissue;
            one whose files stay here always does.
    """

    def __init__(self, slides: int = 4, patches: int = 8, *, patient_data: bool = False) -> None:
        self.slides = slides
        self.patches = patches
        self.patient_data = patient_data

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "val")
        self._log_patches(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._log(trainer, pl_module, "val")
        elif isinstance(pl_module, TopKFineTuner):
            self._log_attended(trainer, pl_module)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: Trainer, module: LightningModule, name: str) -> None:
        boards = _boards(trainer)
        predictions = getattr(module, "last_predictions", None)
        if not boards or predictions is None:
            return
        outcome = slide_model(module).outcome
        scores = outcome.scores(predictions.outputs)
        figures: dict[str, Figure] = {}
        if not predictions.targets.is_floating_point():  # classes
            figures[f"{name}/roc"] = roc_figure(scores, predictions.targets, outcome.spec.classes)
            figures[f"{name}/confusion"] = confusion_figure(
                scores, predictions.targets, outcome.spec.classes
            )
        rows = prediction_rows(feature_data(module), outcome, predictions.indices, scores)
        for board in boards:
            board.log_media(figures, trainer.global_step)
        for board in self._private_boards(trainer):
            board.log_media({f"{name}/predictions": pd.DataFrame(rows)}, trainer.global_step)
        for figure in figures.values():
            plt.close(figure)

    def _private_boards(self, trainer: Trainer) -> list[Board]:
        """The boards that may get what could name a patient."""
        return [board for board in _boards(trainer) if self.patient_data or not board.online]

    def _log_patches(self, trainer: Trainer, module: LightningModule) -> None:
        boards = self._private_boards(trainer)
        if not boards or not isinstance(module, AttentionMIL):
            return
        data = feature_data(module)
        grid = data.store.grid
        if grid is None:
            return
        settings = GridSettings.from_json(grid)
        bags = data.bags[data.bags["part"] == "validation"].head(self.slides)
        media: dict[str, Media] = {}
        for slide_id in [slides[0] for slides in bags["slide_ids"]]:
            images = top_patches(module, data, settings, slide_id, self.patches)
            if images:
                media[f"val/top_patches/{slide_id}"] = images
        for board in boards:
            board.log_media(media, trainer.global_step)

    def _log_attended(self, trainer: Trainer, module: TopKFineTuner) -> None:
        """What validation saw, so nothing is encoded again and few patches are read."""
        boards = self._private_boards(trainer)
        if not boards:
            return
        data = topk_data(module)
        media: dict[str, Media] = {}
        for index in sorted(module.attended)[: self.slides]:
            images = attended_patches(data, index, module.attended[index][: self.patches])
            if images:
                media[f"val/top_patches/{data.bags.loc[index]['bag_id']}"] = images
        for board in boards:
            board.log_media(media, trainer.global_step)


def attended_patches(
    data: TopKPatchDataModule, index: int, patches: Sequence[tuple[int, float]]
) -> list[CaptionedImage]:
    """Pictures of patches of a bag, given by their place in it and their attention.

    Those that cannot be read have no attention, and are left out.
    """
    bag = data.bags.loc[index]
    rows = [(s, r) for s in bag["slide_ids"] for r in range(data.store.slide(s).n_patches)]
    images = []
    for place, weight in patches:
        slide_id, row = rows[place]
        pixels = data.cache.read(slide_id, row)
        if pixels is not None:
            caption = f"{slide_id} row {row}: {in_multiples(weight, len(rows))}"
            images.append(CaptionedImage(pixels, caption))
    return images


def top_patches(
    module: AttentionMIL,
    data: FeatureDataModule,
    settings: GridSettings,
    slide_id: str,
    k: int,
) -> list[CaptionedImage]:
    """The k patches of a slide with the most attention; one that says why if it is unreadable."""
    attention = module.attend(data.read_bag([slide_id])).numpy()  # (N,)
    slide = data.store.slide(slide_id)
    best = np.argsort(-attention, kind="stable")[:k]
    images = []
    try:
        coords = slide.coords()
        reader = open_slide(slide_file(slide), float(slide.fact("slide_mpp")))
        for row in best:
            x, y = (int(v) for v in coords[row])
            pixels: NDArray[np.uint8] = reader.read_patch(x, y, settings.patch_px, settings.mpp)
            caption = f"({x}, {y}): {in_multiples(attention[row], len(attention))}"
            images.append(CaptionedImage(pixels, caption))
        reader.close()
    except (SlideError, StoreError) as error:
        # A picture on the dashboard is no reason to lose a finished fit.
        return [CaptionedImage(np.zeros((8, 8, 3), np.uint8), f"cannot be read: {error}")]
    return images


def in_multiples(weight: float, n_patches: int) -> str:
    """Attention as everywhere else, in multiples of uniform attention.

    Example:
        >>> in_multiples(0.05, 100)
        '5.0 x uniform attention'
    """
    return f"{weight * n_patches:.1f} x uniform attention"


def roc_figure(scores: Tensor, labels: Tensor, classes: Sequence[str]) -> Figure:
    """ROC curve of the second of two classes, or of each class against the rest.

    Args:
        scores: (S, C) probabilities.
        labels: (S,) true classes.
        classes: Their names.
    """
    figure, axis = plt.subplots(figsize=(4, 4), layout="constrained")
    truth, probabilities = labels.cpu().numpy(), scores.cpu().numpy()
    shown = [1] if len(classes) == 2 else range(len(classes))
    for c in shown:
        RocCurveDisplay.from_predictions(
            truth == c, probabilities[:, c], name=classes[c], ax=axis, plot_chance_level=c == 1
        )
    axis.set_title(f"{len(labels)} slides")
    return figure


def confusion_figure(scores: Tensor, labels: Tensor, classes: Sequence[str]) -> Figure:
    """Confusion matrix in slides; arguments as those of `roc_figure`."""
    figure, axis = plt.subplots(figsize=(4, 4), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        labels.cpu().numpy(),
        scores.argmax(-1).cpu().numpy(),
        labels=range(len(classes)),
        display_labels=classes,
        ax=axis,
        cmap="Blues",
        colorbar=False,
    )
    return figure


def _boards(trainer: Trainer) -> list[Board]:
    """The loggers that show figures, on the one rank that may write to them."""
    if not trainer.is_global_zero:
        return []
    return [logger for logger in trainer.loggers if isinstance(logger, Board)]
