"""Catalogue entries with weights trained on histopathology, before the foundation models.

None of these files may be redistributed with this package, and some ask for an account: people
fetch them from `page` and put them into the weights folder under the publisher's own name.
"""

from typing import Any

from histotransfer_pl.encoders import keys
from histotransfer_pl.encoders.entry import EncoderEntry, WeightsSource

_ANY_SIZE = {"dynamic_img_size": True}
_HALF = (0.5, 0.5, 0.5)

_LUNIT: dict[str, Any] = {
    "page": "https://github.com/lunit-io/benchmark-ssl-pathology",
    # published with the weights, for the ViTs; other users of the ResNets apply them as well
    "mean": (0.70322989, 0.53606487, 0.66096631),
    "std": (0.21716536, 0.26081574, 0.20723464),
    "native_mpp": 0.5,
    "licence": "Lunit public licence (non-commercial research)",
    "citation": "Kang et al., Benchmarking self-supervised learning on pathology, CVPR 2023",
}
_MORMONT = {
    "page": "https://github.com/waliens/multitask-dipath",
    "licence": "mit",
    "citation": "Mormont et al., Multi-task pre-training for digital pathology, JBHI 2021",
}


def _entry(
    name: str,
    architecture: str,
    file: str,
    keymap: keys.KeyMap,
    *,
    page: str,
    repo: str | None = None,
    hub_file: str = "model.safetensors",
    **facts: Any,
) -> EncoderEntry:
    return EncoderEntry(
        name=name,
        architecture=architecture,
        domain="histopathology",
        source=WeightsSource(
            files=tuple(dict.fromkeys((f"{name}.safetensors", file))),
            hub_repo=repo,
            hub_file=hub_file,
            page=page,
        ),
        keys=keymap,
        **facts,
    )


HISTOPATHOLOGY_ENTRIES = (
    _entry(
        *("kimianet", "densenet121", "KimiaNetPyTorchWeights.pth", keys.KIMIANET),
        page="https://github.com/KimiaLabMayo/KimiaNet",
        native_px=1000,
        native_mpp=0.5,
        licence="non-commercial, no redistribution",
        citation="Riasatian et al., Fine-tuning and training of DenseNet, MedIA 2021",
    ),
    _entry(
        *("ciga_resnet18", "resnet18", "tenpercent_resnet18.ckpt", keys.CIGA),
        page="https://github.com/ozanciga/self-supervised-histopathology",
        mean=_HALF,
        std=_HALF,
        licence="mit",
        citation="Ciga et al., Self supervised contrastive learning, arXiv:2011.13971",
    ),
    _entry(
        *("mormont_resnet50", "resnet50", "resnet50-mh-best-191205-141200.pth"),
        keys.MORMONT_RESNET,
        **_MORMONT,
    ),
    _entry(
        *("mormont_densenet121", "densenet121", "densenet121-mh-best-191205-141200.pth"),
        keys.MORMONT_DENSENET,
        **_MORMONT,
    ),
    *(
        _entry(
            *(name, f"vit_small_patch{px}_224", f"dino_vit_small_patch{px}_ep200.torch", keys.VIT),
            repo=f"1aurent/vit_small_patch{px}_224.lunit_dino",
            pooling="token",
            options=_ANY_SIZE,
            **_LUNIT,
        )
        for name, px in (("lunit_vit_small_dino", 16), ("lunit_vit_small8_dino", 8))
    ),
    *(
        _entry(
            *(f"lunit_resnet50_{name}", "resnet50", f"{file}_rn50_ep200.torch", keys.RESNET),
            repo=f"1aurent/resnet50.lunit_{file}",
            **_LUNIT,
        )
        for name, file in (("swav", "swav"), ("bt", "bt"), ("moco", "mocov2"))
    ),
    _entry(
        *("phikon", "vit_base_patch16_224", "phikon.safetensors", keys.PHIKON),
        repo="owkin/phikon",
        page="https://huggingface.co/owkin/phikon",
        native_mpp=0.5,
        pooling="token",
        options=_ANY_SIZE,
        norm_eps=1e-12,  # the default of transformers' ViTModel, in which it is published
        licence="Owkin non-commercial",
        citation="Filiot et al., Scaling self-supervised learning, medRxiv 2023.07.21.23292757",
    ),
    _entry(
        *("uni", "vit_large_patch16_224", "uni.bin", keys.VIT),
        repo="MahmoodLab/UNI",
        hub_file="pytorch_model.bin",
        page="https://huggingface.co/MahmoodLab/UNI",
        native_mpp=0.5,
        pooling="token",
        options={"dynamic_img_size": True, "init_values": 1e-5},
        licence="cc-by-nc-nd-4.0, gated",
        citation="Chen et al., Towards a general-purpose foundation model, Nature Medicine 2024",
    ),
)
