"""Files of the hub: from its cache, or downloaded when the user allows it."""

import json
from pathlib import Path

import huggingface_hub
import timm
from huggingface_hub.errors import HfHubHTTPError

from histotransfer_pl.encoders.entry import EncoderEntry, WeightsSource
from histotransfer_pl.encoders.timm_models import described_entry
from histotransfer_pl.errors import EncoderError, WeightsError


def hub_file(repository: str, name: str, *, allow_download: bool) -> Path | None:
    """Path of a file of a hub repository, or None if it isn't here and must not be fetched."""
    cached = huggingface_hub.try_to_load_from_cache(repository, name)
    if isinstance(cached, str):
        return Path(cached)
    if not allow_download:
        return None
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise WeightsError(
            f"cannot fetch {name} of {repository} from the hub ({error}); for a gated repository "
            "log in and accept its terms, without a network give `weights` the path of the file"
        ) from error


def hub_entry(repository: str, *, allow_download: bool) -> EncoderEntry:
    """An entry for a hub repository that describes its network in timm's format."""
    path = hub_file(repository, "config.json", allow_download=allow_download)
    if path is None:
        raise EncoderError(
            f"hf-hub:{repository} isn't in the hub's cache on this machine: allow_download: true "
            "fetches it"
        )
    config = json.loads(path.read_text(encoding="utf-8"))
    architecture = config.get("architecture")
    if architecture is None or not timm.is_model(architecture):
        raise EncoderError(
            f"hf-hub:{repository} doesn't describe a network of timm (architecture: "
            f"{architecture!r}); only repositories in timm's format can be used"
        )
    source = WeightsSource(
        files=(f"{repository.replace('/', '_')}.safetensors",),
        hub_repo=repository,
        page=f"https://huggingface.co/{repository}",
    )
    described = config.get("pretrained_cfg", config)
    options = config.get("model_args")
    return described_entry(f"hf-hub:{repository}", architecture, described, source, options)
