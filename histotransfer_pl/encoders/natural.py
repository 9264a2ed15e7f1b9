"""Catalogue entries of today's networks for natural images, the counterparts in a comparison."""

from histotransfer_pl.encoders import keys
from histotransfer_pl.encoders.entry import EncoderEntry, WeightsSource


def _vit(
    name: str, tagged: str, native_px: int, licence: str, citation: str, keymap: keys.KeyMap
) -> EncoderEntry:
    return EncoderEntry(
        name=name,
        architecture=tagged.partition(".")[0],
        domain="natural",
        source=WeightsSource(
            files=(f"{name}.safetensors", f"{tagged}.safetensors", f"{name}_pretrain.pth"),
            hub_repo=f"timm/{tagged}",
            page=f"https://huggingface.co/timm/{tagged}",
        ),
        keys=keymap,
        native_px=native_px,
        pooling="token",
        options={"dynamic_img_size": True},
        licence=licence,
        citation=citation,
    )


NATURAL_ENTRIES = (
    *(
        _vit(
            f"dinov2_vit{size[0]}14",
            f"vit_{size}_patch14_dinov2.lvd142m",
            518,
            "apache-2.0",
            "Oquab et al., DINOv2: learning robust visual features, TMLR 2024",
            keys.DINOV2,
        )
        for size in ("small", "base", "large")
    ),
    *(
        _vit(
            f"dinov3_vit{size[0]}16",
            f"vit_{size}_patch16_dinov3.lvd1689m",
            256,
            "dinov3-license",
            "Simeoni et al., DINOv3, arXiv:2508.10104",
            keys.VIT,
        )
        for size in ("small", "base", "large")
    ),
    EncoderEntry(
        name="convnext_base",
        architecture="convnext_base",
        domain="natural",
        source=WeightsSource(
            files=("convnext_base.safetensors", "convnext_base.fb_in22k.safetensors"),
            hub_repo="timm/convnext_base.fb_in22k",
            page="https://huggingface.co/timm/convnext_base.fb_in22k",
        ),
        keys=keys.CONVNEXT,
        licence="apache-2.0",
        citation="Liu et al., A ConvNet for the 2020s, CVPR 2022",
    ),
)
