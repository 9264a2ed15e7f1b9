"""A top-k training step against a bare one: `python -m benchmarks.topk_step`."""

import tempfile
import warnings
from contextlib import chdir
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import Tensor

from benchmarks.mil_epoch import TurnByTurn
from benchmarks.program import run
from benchmarks.result import Result, from_times
from benchmarks.topk_material import prepare
from histotransfer_pl.data.topk import TopKPatchDataModule
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.models.heads import AttentionHead
from histotransfer_pl.tasks.finetune import TopKFineTuner
from histotransfer_pl.tasks.heap import keep_freed_memory
from histotransfer_pl.tasks.optimization import set_batchnorm

_FOLDS = 3  # one trains: a third of the patients


class BareSteps:
    """The same network on images that lie on the device: forward, backward, step."""

    def __init__(self, encoder: str, images: Tensor, slides: int, steps: int, device: str) -> None:
        self.network: PatchEncoder = build_encoder(EncoderConfig(encoder, "random")).to(device)
        set_batchnorm(self.network.train(), "frozen_statistics")
        (self.depth,) = self.network.depths
        self.head = AttentionHead(self.network.dims[self.depth], 2).to(device)
        assert self.head.patch_classifier is not None
        self.head.patch_classifier.requires_grad_(False)
        parameters = [*self.network.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=1e-5)
        self.images = images.to(device)  # (slides * k, P, P, 3)
        self.lengths = torch.full((slides,), len(images) // slides)
        self.labels = (torch.arange(slides) % 2).to(device)
        self.steps = steps
        self.device = device

    def epoch(self) -> None:
        """The steps of an epoch."""
        for _ in range(self.steps):
            self.optimizer.zero_grad()
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                features = self.network(self.images)[self.depth].float()
                loss = F.cross_entropy(self.head(features, self.lengths).logits, self.labels)
            loss.backward()
            self.optimizer.step()


def measure(
    slides: int = 4,
    k: int | None = None,
    patch_px: int = 224,
    encoder: str = "resnet18",
    steps: int | None = None,
    epochs: int = 4,
    device: str = "cpu",
) -> list[Result]:
    """`TopKFineTuner` through datamodule and Trainer, by the bare steps on images in memory.

    Args:
        slides: Slides of a step.
        k: Patches of a slide; by default 4 on the CPU and 64 on a GPU.
        patch_px: Side of a patch.
        encoder: Name of the encoder; its weights are random.
        steps: Steps of an epoch; by default 2 on the CPU and 8 on a GPU.
        epochs: Epochs that count.
        device: cpu or cuda.
    """
    keep_freed_memory()  # for both ways, as the command line does
    on_gpu = device == "cuda"
    k = k or (64 if on_gpu else 4)
    steps = steps or (8 if on_gpu else 2)
    images = torch.randint(0, 256, (slides * k, patch_px, patch_px, 3), dtype=torch.uint8)
    watch = TurnByTurn(BareSteps(encoder, images, slides, steps, device).epoch)
    with tempfile.TemporaryDirectory() as folder, chdir(folder), warnings.catch_warnings():
        prepare(2 * k, k, patch_px, encoder, _FOLDS * slides * steps)
        trainer = Trainer(
            max_epochs=epochs + 2,  # the first one reads the patches; the last has no next start
            accelerator="gpu" if on_gpu else "cpu",
            devices=1,
            precision="bf16-mixed" if on_gpu else "32-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            callbacks=[watch],
        )
        data = TopKPatchDataModule(
            Path("s.zarr"), Path("c.csv"), "top", n_folds=_FOLDS, batch_size=slides
        )
        trainer.fit(TopKFineTuner(Path("stage1"), encoder, "random"), data)
    ours, theirs = ([time / steps for time in times[1:]] for times in (watch.ours, watch.theirs))
    return [
        from_times(
            f"top-k training step of {slides} slides vs a bare step on the same number of images",
            *(1.25, ours, theirs),
            notes=f"{encoder}, k {k}, {patch_px} px, patches kept in memory, augmented",
            device=device,
            amount=slides * k,
            unit="patches",
        )
    ]


if __name__ == "__main__":
    run("topk_step", measure, {"k": 2, "patch_px": 32, "encoder": "timm:test_resnet", "epochs": 2})
