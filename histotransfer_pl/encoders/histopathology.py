"""Catalogue entries with weights trained on histopathology.

None of these files may be redistributed with this package, and some ask for an account: people
fetch them from `page` and put them into the weights folder under the publisher's own name.
"""

from histotransfer_pl.encoders import keys
from histotransfer_pl.encoders.entry import EncoderEntry, WeightsSource

_ANY_SIZE = {"dynamic_img_size": True}
_HALF = (0.5, 0.5, 0.5)

_LUNIT_CITATION = "Kang et al., Benchmarking self-supervised learning on pathology, CVPR 2023"
_LUNIT_PAGE = "https://github.com/lunit-io/benchmark-ssl-pathology"
_LUNIT_LICENCE = "Lunit public licence (non-commercial research)"
# published with the weights, for the ViTs; other users of the ResNets apply them as well
_LUNIT_MEAN = (0.70322989, 0.53606487, 0.66096631)
_LUNIT_STD = (0.21716536, 0.26081574, 0.20723464)

_MORMONT_CITATION = "Mormont et al., Multi-task pre-training for digital pathology, JBHI 2021"
_MORMONT_PAGE = "https://github.com/waliens/multitask-dipath"


def _lunit_resnet50(name: str, file: str, repo: str) -> EncoderEntry:
    return EncoderEntry(
        name=name,
        architecture="resnet50",
        domain="histopathology",
        source=WeightsSource(
            files=(f"{name}.safetensors", file), hub_repo=f"1aurent/{repo}", page=_LUNIT_PAGE
        ),
        keys=keys.RESNET,
        mean=_LUNIT_MEAN,
        std=_LUNIT_STD,
        native_mpp=0.5,
        licence=_LUNIT_LICENCE,
        citation=_LUNIT_CITATION,
    )


HISTOPATHOLOGY_ENTRIES = (
    EncoderEntry(
        name="kimianet",
        architecture="densenet121",
        domain="histopathology",
        source=WeightsSource(
            files=("kimianet.safetensors", "KimiaNetPyTorchWeights.pth"),
            page="https://github.com/KimiaLabMayo/KimiaNet",
        ),
        keys=keys.KIMIANET,
        native_px=1000,
        native_mpp=0.5,
        licence="non-commercial, no redistribution",
        citation="Riasatian et al., Fine-tuning and training of DenseNet, MedIA 2021",
    ),
    EncoderEntry(
        name="ciga_resnet18",
        architecture="resnet18",
        domain="histopathology",
        source=WeightsSource(
            files=("ciga_resnet18.safetensors", "tenpercent_resnet18.ckpt"),
            page="https://github.com/ozanciga/self-supervised-histopathology",
        ),
        keys=keys.CIGA,
        mean=_HALF,
        std=_HALF,
        licence="mit",
        citation="Ciga et al., Self supervised contrastive learning, arXiv:2011.13971",
    ),
    EncoderEntry(
        name="mormont_resnet50",
        architecture="resnet50",
        domain="histopathology",
        source=WeightsSource(
            files=("mormont_resnet50.safetensors", "resnet50-mh-best-191205-141200.pth"),
            page=_MORMONT_PAGE,
        ),
        keys=keys.MORMONT_RESNET,
        licence="mit",
        citation=_MORMONT_CITATION,
    ),
    EncoderEntry(
        name="mormont_densenet121",
        architecture="densenet121",
        domain="histopathology",
        source=WeightsSource(
            files=("mormont_densenet121.safetensors", "densenet121-mh-best-191205-141200.pth"),
            page=_MORMONT_PAGE,
        ),
        keys=keys.MORMONT_DENSENET,
        licence="mit",
        citation=_MORMONT_CITATION,
    ),
    *(
        EncoderEntry(
            name=name,
            architecture=f"vit_small_patch{patch}_224",
            domain="histopathology",
            source=WeightsSource(
                files=(f"{name}.safetensors", f"dino_vit_small_patch{patch}_ep200.torch"),
                hub_repo=f"1aurent/vit_small_patch{patch}_224.lunit_dino",
                page=_LUNIT_PAGE,
            ),
            keys=keys.VIT,
            mean=_LUNIT_MEAN,
            std=_LUNIT_STD,
            native_mpp=0.5,
            pooling="token",
            options=_ANY_SIZE,
            licence=_LUNIT_LICENCE,
            citation=_LUNIT_CITATION,
        )
        for name, patch in (("lunit_vit_small_dino", 16), ("lunit_vit_small8_dino", 8))
    ),
    _lunit_resnet50("lunit_resnet50_swav", "swav_rn50_ep200.torch", "resnet50.lunit_swav"),
    _lunit_resnet50("lunit_resnet50_bt", "bt_rn50_ep200.torch", "resnet50.lunit_bt"),
    _lunit_resnet50("lunit_resnet50_moco", "mocov2_rn50_ep200.torch", "resnet50.lunit_mocov2"),
    EncoderEntry(
        name="phikon",
        architecture="vit_base_patch16_224",
        domain="histopathology",
        source=WeightsSource(
            files=("phikon.safetensors",),
            hub_repo="owkin/phikon",
            page="https://huggingface.co/owkin/phikon",
        ),
        keys=keys.PHIKON,
        native_mpp=0.5,
        pooling="token",
        options=_ANY_SIZE,
        norm_eps=1e-12,  # the default of transformers' ViTModel, in which it is published
        licence="Owkin non-commercial",
        citation="Filiot et al., Scaling self-supervised learning, medRxiv 2023.07.21.23292757",
    ),
    EncoderEntry(
        name="uni",
        architecture="vit_large_patch16_224",
        domain="histopathology",
        source=WeightsSource(
            files=("uni.safetensors", "uni.bin"),
            hub_repo="MahmoodLab/UNI",
            hub_file="pytorch_model.bin",
            page="https://huggingface.co/MahmoodLab/UNI",
        ),
        keys=keys.VIT,
        native_mpp=0.5,
        pooling="token",
        options={"dynamic_img_size": True, "init_values": 1e-5},
        licence="cc-by-nc-nd-4.0, gated",
        citation="Chen et al., Towards a general-purpose foundation model, Nature Medicine 2024",
    ),
)
