"""Catalogue entries of foundation models of histopathology, 2022 to 2025.

None of these files may be redistributed with this package, and most ask for an account: people
fetch them from `page` and put them into the weights folder as `<name>.safetensors`, or under the
publisher's own name. Arguments, normalisation and pooling are those of the publishers' cards and
code; `note` says what we could only read in other people's code, or not at all. Parameter counts
are tested against the published ones.
"""

from collections.abc import Mapping
from typing import Any

from histotransfer_pl.encoders import keys
from histotransfer_pl.encoders.entry import EncoderEntry, WeightsSource

_HALF = (0.5, 0.5, 0.5)
_BIOPTIMUS_MEAN = (0.707223, 0.578729, 0.703617)
_BIOPTIMUS_STD = (0.211883, 0.230117, 0.177517)
_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_CC = "cc-by-nc-nd-4.0, gated"

_SWIGLU: Mapping[str, object] = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}


def _vit(
    name: str,
    architecture: str,
    repo: str,
    options: Mapping[str, object],
    *,
    file: str = "pytorch_model.bin",
    keymap: keys.KeyMap = keys.VIT,
    native_px: int = 224,
    **facts: Any,
) -> EncoderEntry:
    """A transformer that the hub publishes; `facts` replace those of most."""
    usual: dict[str, Any] = {"native_mpp": 0.5, "pooling": "token"}
    return EncoderEntry(
        name=name,
        architecture=architecture,
        domain="histopathology",
        source=WeightsSource(
            files=(f"{name}.safetensors", f"{name}.bin", f"{name}.pth"),
            hub_repo=repo,
            hub_file=file,
            page=f"https://huggingface.co/{repo}",
        ),
        keys=keymap,
        native_px=native_px,
        options={"dynamic_img_size": True, "img_size": native_px, **options},
        **(usual | facts),
    )


def _kaiko(name: str, architecture: str, options: Mapping[str, object]) -> EncoderEntry:
    return _vit(
        name,
        architecture,
        f"1aurent/{architecture}.kaiko_ai_towards_large_pathology_fms",
        options,
        file="model.safetensors",
        keymap=keys.DINOV2,
        mean=_HALF,
        std=_HALF,
        licence="Kaiko non-commercial public licence",
        citation="Aben et al., Towards large-scale training of pathology FMs, arXiv:2404.15217",
        note=(
            "Published as releases of github.com/kaiko-ai/towards_large_pathology_fms; the hub has "
            "a copy in timm's format. Trained at several magnifications; 0.5 is one of them."
        ),
    )


FOUNDATION_ENTRIES = (
    _vit(
        "uni2_h",
        "vit_giant_patch14_224",
        "MahmoodLab/UNI2-h",
        {
            **_SWIGLU,
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "mlp_ratio": 5.33334,
            "init_values": 1e-5,
            "no_embed_class": True,
            "reg_tokens": 8,
        },
        licence=_CC,
        citation="Chen et al., Towards a general-purpose foundation model, Nature Medicine 2024",
    ),
    _vit(
        "virchow",
        "vit_huge_patch14_224",
        "paige-ai/Virchow",
        {**_SWIGLU, "mlp_ratio": 5.3375, "init_values": 1e-5},
        pooling="token_and_mean",
        licence="apache-2.0, gated",
        citation="Vorontsov et al., A foundation model for clinical-grade pathology, Nat Med 2024",
    ),
    _vit(
        "virchow2",
        "vit_huge_patch14_224",
        "paige-ai/Virchow2",
        {**_SWIGLU, "mlp_ratio": 5.3375, "init_values": 1e-5, "reg_tokens": 4},
        pooling="token_and_mean",
        licence=_CC,
        citation="Zimmermann et al., Virchow2, arXiv:2408.00738",
        note="Trained at 2, 1, 0.5 and 0.25 um/px.",
    ),
    _vit(
        "h_optimus_0",
        "vit_giant_patch14_reg4_dinov2",
        "bioptimus/H-optimus-0",
        {"init_values": 1e-5},
        mean=_BIOPTIMUS_MEAN,
        std=_BIOPTIMUS_STD,
        licence="apache-2.0",
        citation="Saillard et al., H-optimus-0, github.com/bioptimus/releases, 2024",
    ),
    _vit(
        "h_optimus_1",
        "vit_giant_patch14_reg4_dinov2",
        "bioptimus/H-optimus-1",
        {"init_values": 1e-5},
        mean=_BIOPTIMUS_MEAN,
        std=_BIOPTIMUS_STD,
        licence=_CC,
        citation="Bioptimus, H-optimus-1, huggingface.co/bioptimus/H-optimus-1, 2025",
        note="We could not see its card: arguments and normalisation as several peers load it.",
    ),
    _vit(
        "h0_mini",
        "vit_base_patch14_reg4_dinov2",
        "bioptimus/H0-mini",
        {**_SWIGLU, "mlp_ratio": 5.33334, "init_values": 1e-5},
        file="model.safetensors",
        pooling="token_and_mean",
        mean=_BIOPTIMUS_MEAN,
        std=_BIOPTIMUS_STD,
        licence=_CC,
        citation="Filiot et al., Distilling foundation models, arXiv:2501.16239",
        note=(
            "Its card offers the class token (768) and class and mean (1,536). We could not see "
            "its config: the width of the feed-forward network follows from the published 85.7 M."
        ),
    ),
    _vit(
        "prov_gigapath",
        "vit_giant_patch14_dinov2",
        "prov-gigapath/prov-gigapath",
        {"patch_size": 16, "mlp_ratio": 5.33334, "init_values": 1e-5},
        licence="apache-2.0 with conditions, gated",
        citation="Xu et al., A whole-slide foundation model, Nature 2024",
        note=(
            "The tile encoder. Its authors resize tiles of 256 px to 256 and crop the central 224: "
            "patches of 224 px at 0.5 um/px show the same."
        ),
    ),
    _vit(
        "phikon_v2",
        "vit_large_patch16_224",
        "owkin/phikon-v2",
        {"init_values": 1e-5},
        file="model.safetensors",
        keymap=keys.TRANSFORMERS_DINOV2,
        licence="Owkin non-commercial",
        citation="Filiot et al., Phikon-v2, arXiv:2409.09173",
    ),
    *(
        _vit(
            name,
            f"vit_{size}_patch14_reg4_dinov2",
            repo,
            {},
            file="model.safetensors",
            keymap=keys.TRANSFORMERS_DINOV2,
            mean=(0.7068, 0.5755, 0.7220),
            std=(0.1950, 0.2316, 0.1816),
            licence="apache-2.0, gated",
            citation="Nechaev et al., Hibou, arXiv:2406.05074",
            note=(
                "Published with code of its own in transformers' layout of DINOv2 with registers; "
                "the names of its tensors and the size of its positions were not confirmed (the "
                "large one is listed elsewhere with 0.5 M parameters more). Resolution of "
                "training: not confirmed, others use 0.5 um/px."
            ),
        )
        for name, size, repo in (
            ("hibou_b", "base", "histai/hibou-b"),
            ("hibou_l", "large", "histai/hibou-L"),
        )
    ),
    _vit(
        "midnight_12k",
        "vit_giant_patch14_dinov2",
        "kaiko-ai/midnight",
        {},
        file="model.safetensors",
        keymap=keys.TRANSFORMERS_DINOV2,
        pooling="token_and_mean",
        mean=_HALF,
        std=_HALF,
        licence="mit",
        citation="Karasikov et al., Training state-of-the-art pathology FMs, arXiv:2504.05186",
        note=(
            "Trained at 2, 1, 0.5 and 0.25 um/px. The size of its positions was not confirmed: it "
            "is listed elsewhere with 1.14 instead of 1.135 billion parameters."
        ),
    ),
    _vit(
        "conch",
        "vit_base_patch16_224",
        "MahmoodLab/CONCH",
        {"head_layer": "AttentionPool"},
        keymap=keys.CONCH,
        mean=_OPENAI_MEAN,
        std=_OPENAI_STD,
        native_px=448,
        licence=_CC,
        citation="Lu et al., A visual-language foundation model, Nature Medicine 2024",
        note=(
            "The vision tower of version 1. `projection` is the vector of 512 numbers that its "
            "authors use for slides (attention pool and norm, proj_contrast=False), `norm` the "
            "class token before it. Tiles of 512 px at 0.5 um/px are resized to 448."
        ),
    ),
    EncoderEntry(
        name="ctranspath",
        architecture="swin_tiny_patch4_window7_224",
        domain="histopathology",
        source=WeightsSource(
            files=("ctranspath.safetensors", "ctranspath.pth", "CHIEF_CTransPath.pth"),
            page="https://github.com/Xiyue-Wang/TransPath",
        ),
        keys=keys.CTRANSPATH,
        options={"embed_layer": "ConvStem"},
        licence="gpl-3.0",
        citation="Wang et al., Transformer-based unsupervised contrastive learning, MedIA 2022",
        note="Resolution of training: not confirmed; others extract at 1 um/px.",
    ),
    _vit(
        "gpfm",
        "vit_large_patch14_dinov2",
        "majiabo/GPFM",
        {"init_values": 1e-5},
        file="GPFM.pth",
        keymap=keys.DINOV2,
        licence="cc-by-nc-nd-4.0",
        citation="Ma et al., A generalizable pathology foundation model, Nature BME 2025",
        note="The release on github.com/birkhoffkiki/GPFM holds the same network as `teacher`.",
    ),
    _kaiko("kaiko_vits16", "vit_small_patch16_224", {}),
    _kaiko("kaiko_vits8", "vit_small_patch8_224", {}),
    _kaiko("kaiko_vitb16", "vit_base_patch16_224", {}),
    _kaiko("kaiko_vitb8", "vit_base_patch8_224", {}),
    # the only one with the positions of 518 px; they are interpolated to the input
    _kaiko("kaiko_vitl14", "vit_large_patch14_reg4_dinov2", {"img_size": 518}),
    _vit(
        "plip",
        "vit_base_patch32_clip_quickgelu_224",
        "vinid/plip",
        {"num_classes": 512},
        keymap=keys.TRANSFORMERS_CLIP,
        mean=_OPENAI_MEAN,
        std=_OPENAI_STD,
        native_mpp=None,
        licence="see its page (listed elsewhere as non-commercial)",
        citation="Huang et al., A visual-language foundation model, Nature Medicine 2023",
        note=(
            "The vision tower. `projection` is its published vector of 512 numbers, a linear "
            "projection of `norm`. Trained on figures without a resolution."
        ),
    ),
)
