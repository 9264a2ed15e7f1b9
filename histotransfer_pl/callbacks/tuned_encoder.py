"""What a fine-tuning run leaves: the tuned encoder, and the patches that could not be read."""

import copy
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from histotransfer_pl.data.patch_cache import PatchCache
from histotransfer_pl.records.tables import write_table
from histotransfer_pl.tasks.finetune import TopKFineTuner, topk_data
from histotransfer_pl.tasks.metrics import from_all_ranks

_log = logging.getLogger(__name__)

FILE = "encoder.safetensors"
_ENCODER = "encoder."


class TunedEncoderWriter(Callback):
    """Saves the encoder of the best epoch as ``encoder.safetensors`` when a fit ends.

    The file loads with ``extract --model.weights``, holds the adapters alone where such were
    trained (their base is named by its hash), and tells each feature array on which patients
    it was tuned. Patches that could not be read are listed in ``unreadable_patches.csv``. Does
    nothing for other tasks.
    """

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, TopKFineTuner):
            if trainer.is_global_zero:
                save_best_encoder(trainer, pl_module)
            write_unreadable(trainer, topk_data(pl_module).cache)

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, TopKFineTuner):
            write_unreadable(trainer, topk_data(pl_module).cache)

    on_predict_end = on_test_end


def save_best_encoder(trainer: Trainer, task: TopKFineTuner) -> Path:
    """Write the encoder of the best checkpoint, or the present one if there is none."""
    # A copy: the weights in training are those of the last epoch and stay so.
    encoder = copy.deepcopy(task.encoder).cpu()
    chosen = (c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None))
    best = getattr(next(chosen, None), "best_model_path", "")
    if best:
        state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
        own = {k.removeprefix(_ENCODER): v for k, v in state.items() if k.startswith(_ENCODER)}
        encoder.load_state_dict(encoder.state_dict() | own)  # a base of adapters is not in the file
    if task.lora.merge and encoder.adapter is not None:
        encoder.merge()
    path = Path(trainer.default_root_dir) / FILE
    encoder.save(path, tuned_facts(trainer, task))
    return path


def tuned_facts(trainer: Trainer, task: TopKFineTuner) -> dict[str, Any]:
    """On whom and from what the encoder was tuned; they follow its features into the store."""
    data = topk_data(task)
    before = task.encoder.provenance.get("tuned", {})  # it may have been tuned already, on others

    def all_patients(part: str, key: str) -> list[str]:
        return sorted({*data.patients(part), *before.get(key, [])})

    return {
        "tuned_on_patients": all_patients("train", "tuned_on_patients"),
        "tuned_validation_patients": all_patients("validation", "tuned_validation_patients"),
        "tuned_fold": data.source.split.fold,
        "tuned_run": str(Path(trainer.default_root_dir)),
        "tuned_stage1": str(task.stage1),
        "tuned_selection": data.selection,
        "tuned_rule": data.selection_facts["rule"],
        "tuned_from_sha256": data.features.encoder.weights.sha256,
    }


def write_unreadable(trainer: Trainer, cache: PatchCache) -> None:
    """List the patches that no rank could read; no file where there are none."""
    shares = from_all_ranks(trainer, cache.unreadable)
    joined = {key: reason for share in shares for key, reason in share.items()}
    if joined and trainer.is_global_zero:
        rows = [(slide, row, reason) for (slide, row), reason in sorted(joined.items())]
        table = pd.DataFrame(rows, columns=["slide_id", "row", "reason"])
        path = Path(trainer.default_root_dir) / "unreadable_patches.csv"
        write_table(path, table)
        _log.warning(
            "%d patches of %d slides could not be read, and others took their place: %s",
            len(table),
            table["slide_id"].nunique(),
            path,
        )
