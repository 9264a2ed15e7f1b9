"""Feature dimensions of every depth of the catalogue's networks, shallowest first."""


def _cnn(**dims: int) -> dict[str, int]:
    return dims


def _vit(dim: int, blocks: int) -> dict[str, int]:
    return {f"block{i}": dim for i in range(blocks)} | {"norm": dim}


RESNET18 = _cnn(stem=64, layer1=64, layer2=128, layer3=256, layer4=512)
RESNET50 = _cnn(stem=64, layer1=256, layer2=512, layer3=1024, layer4=2048)
DENSENET121 = _cnn(
    stem=64,
    denseblock1=256,
    transition1=128,
    denseblock2=512,
    transition2=256,
    denseblock3=1024,
    transition3=512,
    denseblock4=1024,
    norm5=1024,
)
EFFICIENTNET_B0 = _cnn(
    stem=32,
    block0=16,
    block1=24,
    block2=40,
    block3=80,
    block4=112,
    block5=192,
    block6=320,
    head=1280,
)
MOBILENETV2 = _cnn(
    stem=32,
    block0=16,
    block1=24,
    block2=32,
    block3=64,
    block4=96,
    block5=160,
    block6=320,
    head=1280,
)
CONVNEXT_TINY = _cnn(stem=96, stage0=96, stage1=192, stage2=384, stage3=768, norm=768)
VIT_SMALL = _vit(384, 12)
VIT_BASE = _vit(768, 12)
VIT_LARGE = _vit(1024, 24)
