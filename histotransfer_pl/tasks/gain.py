"""What pretraining adds to each layer of an encoder, by a linear probe."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histotransfer_pl.data.labelled_tiles import LabelledTiles, read_tiles
from histotransfer_pl.data.patch_sample import PatchSampleDataModule
from histotransfer_pl.data.slide_means import LabelledSlides, labelled_slides
from histotransfer_pl.encoders.catalogue import configured_entry
from histotransfer_pl.encoders.config import EncoderConfig
from histotransfer_pl.encoders.cost import DepthCost, count_costs
from histotransfer_pl.encoders.encoder import build_encoder
from histotransfer_pl.errors import AnalysisError, ConfigError, StoreMismatchError, shorten
from histotransfer_pl.records.attributes import encoder_spec
from histotransfer_pl.records.done import Done
from histotransfer_pl.records.files import write_text
from histotransfer_pl.records.tables import write_table
from histotransfer_pl.store.feature_store import FeatureStore
from histotransfer_pl.tasks.layer_probe import (
    Arms,
    LayerProbe,
    Layers,
    ProbeSettings,
    RandomBatchNorm,
    has_batchnorm,
    random_arms,
    tile_features,
)
from histotransfer_pl.tasks.random_slides import random_slide_means
from histotransfer_pl.tasks.similarity import ComparedEncoder

_BATCHNORM: dict[RandomBatchNorm, str] = {
    "reestimated": "re-estimated on images of all folds, without labels",
    "initial": "initial (mean 0, variance 1)",
}
_KINDS: dict[str, list[RandomBatchNorm]] = {
    "reestimated": ["reestimated"],
    "initial": ["initial"],
    "both": ["reestimated", "initial"],
}
_FACTS = ("weights", "weights_sha256", "input_px", "pooling")


def measure_gain(
    encoder: ComparedEncoder,
    output: Path = Path("gain.csv"),
    tiles: Path | None = None,
    label: str = "label",
    group: str = "patient_id",
    images: Path | None = None,
    patch_px: int | None = None,
    mpp: float | None = None,
    n_tiles: int | None = None,
    store: Path | None = None,
    cohort: Path | None = None,
    strict: bool = True,
    random: list[str] | None = None,
    random_seeds: list[int] = [0, 1, 2, 3, 4],  # noqa: B006 - the parser shows it, none changes it
    random_batchnorm: Literal["reestimated", "initial", "both"] = "reestimated",
    probe: ProbeSettings = ProbeSettings(),  # noqa: B008 - frozen
    batch_size: int = 64,
    device: str = "cpu",
) -> Done:
    """Probe every layer of an encoder, and of the same network with random weights.

    Either on labelled tiles, which are encoded here, or on the mean features of labelled slides
    of a store; the random networks then see the patches of the store's grid.

    Args:
        encoder: The pretrained encoder; with a store its name there.
        output: CSV table to write, one row per layer; a JSON file with the facts goes beside it.
        tiles: CSV table of labelled tiles: ``path`` (an image), or ``slide_id``, ``x``, ``y``.
        label: Column of the class.
        group: Column of the patient, or of what else must stay on one side of a split.
        images: Folder of the images or slides of the tiles, the table's own by default; or of
            the slides of the store, if they were moved.
        patch_px: Side of a tile of a slide.
        mpp: Micrometres per pixel of a tile of a slide; the slide's own by default.
        n_tiles: Take this many tiles at random; all by default.
        store: Store with features of the encoder.
        cohort: CSV table with the labels of the slides of the store.
        strict: Refuse labelled slides whose features are missing, as in ``fit``.
        random: Names in the store of random networks that were extracted, to take instead of
            encoding the patches with those of ``random_seeds``.
        random_seeds: Seeds of the random networks.
        random_batchnorm: BatchNorm statistics of the random networks: ``reestimated`` on the
            tiles or patches, ``initial`` (mean 0, variance 1), or ``both``: the gain depends on
            it much. Networks that were extracted have the initial ones.
        probe: Folds and penalties of the probe.
        batch_size: Tiles of a batch.
        device: Where tiles are encoded, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: Settings that do not go together.
        AnalysisError: A tuned encoder on patients that it was tuned on.
        StoreMismatchError: Features that are not those of the encoder.
    """
    if (tiles is None) == (store is None):
        raise ConfigError("give either --tiles (labelled tiles) or --store (features of slides)")
    if encoder.weights == "random":
        raise ConfigError("encoder.weights is random: the random arm is made by random_seeds")
    if len(set(random_seeds)) < len(random_seeds):
        raise ConfigError(f"random_seeds {random_seeds} names a seed twice")
    if tiles is not None:
        place = {"folder": images, "patch_px": patch_px, "mpp": mpp}
        given = read_tiles(tiles, label=label, group=group, n_tiles=n_tiles, **place)  # type: ignore[arg-type]
        kinds = _KINDS[random_batchnorm]
        found, facts = _on_tiles(encoder, given, random_seeds, kinds, probe, batch_size, device)
        facts = {"data": str(tiles), **facts}
    else:
        if store is None or cohort is None:
            raise ConfigError("features of slides need their labels: give --cohort")
        depths = _stored_depths(encoder, store)
        slides = labelled_slides(store, cohort, label, encoder.store_name, depths, strict=strict)
        said = slides.facts(encoder.store_name, depths[-1])
        refuse_tuned_on(said, slides.groups)
        require_same_network(encoder, said)
        if random is None:
            data = PatchSampleDataModule(store, cohort, images, batch_size=batch_size)
            kinds = _KINDS[random_batchnorm]
            arms, more = _encoded(encoder, random_seeds, kinds, data, slides, depths, device)
        else:
            arms, more = _extracted(encoder, random, slides, depths)
        found = LayerProbe.run(
            lambda: slides.means(encoder.store_name, depths),
            arms,
            slides.labels,
            slides.groups,
            probe,
        )
        facts = _slide_facts(encoder, slides, depths) | more
        facts = {"data": str(cohort), **facts}
    rows = count_costs(configured_entry(encoder), facts.get("counted_px"))
    return _write(found, facts, {row.depth: row for row in rows}, probe, output)


def refuse_tuned_on(facts: Mapping[str, Any], groups: NDArray[np.str_]) -> None:
    """Refuse to probe a tuned encoder on patients whose labels it was tuned with."""
    keys = ("tuned_on_patients", "tuned_validation_patients")
    seen = sorted({name for key in keys for name in facts.get(key, [])} & set(groups.tolist()))
    if seen:
        raise AnalysisError(
            f"the encoder was tuned on {len(seen)} of these patients ({shorten(seen)}), so the "
            "probe would not be held out: give a table of other patients"
        )


def require_same_network(config: EncoderConfig, facts: Mapping[str, Any]) -> None:
    """Refuse to hold features of one network against random weights of another."""
    stored = encoder_spec(facts, config.store_name)
    entry = configured_entry(config)
    asked = replace(
        stored,
        architecture=entry.architecture,
        pooling=entry.pooling,
        mean=entry.mean,
        std=entry.std,
    )
    if stored.architecture and (wrong := stored.differs(asked)):
        raise StoreMismatchError(
            f"features of {config.store_name} in the store are not those of this encoder (store, "
            f"not encoder): {'; '.join(wrong)}; give the encoder as in the extraction"
        )


def _on_tiles(
    config: ComparedEncoder,
    tiles: LabelledTiles,
    seeds: list[int],
    kinds: list[RandomBatchNorm],
    probe: ProbeSettings,
    batch_size: int,
    device: str,
) -> tuple[LayerProbe, dict[str, Any]]:
    encoder = build_encoder(config).to(device)
    refuse_tuned_on(encoder.provenance.get("tuned", {}), tiles.groups)
    kinds = kinds if has_batchnorm(encoder) else kinds[:1]
    found = LayerProbe.run(
        lambda: tile_features(encoder, tiles, batch_size),
        {kind: random_arms(config, seeds, tiles, batch_size, device, kind) for kind in kinds},
        tiles.labels,
        tiles.groups,
        probe,
    )
    facts = {
        "encoder": encoder.name,
        **{key: encoder.provenance[key] for key in _FACTS},
        "unit": "tiles",
        **_counts(tiles.labels, tiles.classes, tiles.groups),
        "random_seeds": seeds,
        "random_batchnorm": _in_words(kinds) if has_batchnorm(encoder) else "none",
        "counted_px": config.input_px or tiles.patch_px or next(tiles.batches(1)).shape[1],
    }
    return found, facts


def _encoded(
    config: ComparedEncoder,
    seeds: list[int],
    kinds: list[RandomBatchNorm],
    data: PatchSampleDataModule,
    slides: LabelledSlides,
    depths: list[str],
    device: str,
) -> tuple[Arms, dict[str, Any]]:
    """Random networks that see the patches now."""
    data.setup("predict")
    known = slides.facts(config.store_name, depths[-1])
    plain = replace(config, depths=depths, input_px=known.get("input_px", config.input_px))
    normalised = has_batchnorm(build_encoder(replace(plain, weights="random", alias=None)))
    kinds = kinds if normalised else kinds[:1]
    networks = [(seed, kind) for kind in kinds for seed in seeds]
    means = random_slide_means(plain, networks, data, slides.slide_ids, device)
    words = _in_words(kinds) if normalised else "none"
    facts = {"random_seeds": seeds, "random_batchnorm": words}
    arms: dict[RandomBatchNorm, list[Callable[[], Layers]]] = {kind: [] for kind in kinds}
    for (_, kind), layers in zip(networks, means, strict=True):
        arms[kind].append(lambda layers=layers: layers)  # type: ignore[misc]
    return arms, facts


def _in_words(kinds: list[RandomBatchNorm]) -> str:
    words = [_BATCHNORM[kind] for kind in kinds]
    return "; in the columns ..._initial ".join(words)


def _extracted(
    config: ComparedEncoder, names: list[str], slides: LabelledSlides, depths: list[str]
) -> tuple[Arms, dict[str, Any]]:
    """Random networks whose features are in the store."""
    _check_random(slides, config, depths, names)
    facts = {"random_networks": names, "random_batchnorm": _BATCHNORM["initial"]}
    arms = [lambda name=name: slides.means(name, depths) for name in names]
    return {"initial": arms}, facts


def _slide_facts(
    config: ComparedEncoder, slides: LabelledSlides, depths: list[str]
) -> dict[str, Any]:
    known = slides.facts(config.store_name, depths[-1])
    return {
        "encoder": config.store_name,
        **{key: known[key] for key in _FACTS if key in known},
        "unit": "slides (mean of their patches)",
        **_counts(slides.labels, slides.classes, slides.groups),
        "counted_px": known.get("input_px") or (slides.store.grid or {}).get("patch_px"),
    }


def _stored_depths(config: ComparedEncoder, store: Path) -> list[str]:
    """The depths to probe that the store has, from shallow to deep."""
    opened = FeatureStore.open(store)
    held: set[str] = set()
    for slide_id in opened.slide_ids():
        held = {d for e, d in opened.slide(slide_id).features() if e == config.store_name}
        if held:
            break
    if not held:
        raise StoreMismatchError(
            f"{opened.location} has no features of {config.store_name}: run extract with it"
        )
    if isinstance(config.depths, list):
        return config.depths
    rows = count_costs(configured_entry(config))
    ordered = [row.depth for row in rows if row.depth in held]
    return ordered if config.depths == "all" else ordered[-1:]


def _check_random(
    slides: LabelledSlides, config: ComparedEncoder, depths: list[str], random: list[str]
) -> None:
    """The other arm must be there, must be random, and must differ from network to network."""
    hashes: dict[str, str] = {}
    for name in random:
        slides.means(name, depths[:1])
        said = str(slides.facts(name, depths[0]).get("weights_sha256", ""))
        if not said.startswith("random:"):
            raise ConfigError(f"{name} is no random network in the store: its weights are {said!r}")
        if said in hashes:
            raise ConfigError(f"{name} and {hashes[said]} are the same random network ({said})")
        hashes[said] = name
        own, other = (
            slides.facts(encoder, depths[0]).get("architecture")
            for encoder in (config.store_name, name)
        )
        if own != other:
            raise ConfigError(f"{name} is another architecture ({other}) than {own}")


def _counts(
    labels: NDArray[np.int64], classes: list[str], groups: NDArray[np.str_]
) -> dict[str, Any]:
    counted = Counter(labels.tolist())
    return {
        "n": len(labels),
        "groups": len(set(groups.tolist())),
        "classes": {name: counted[i] for i, name in enumerate(classes)},
    }


def _write(
    found: LayerProbe,
    facts: dict[str, Any],
    costs: dict[str, DepthCost],
    probe: ProbeSettings,
    output: Path,
) -> Done:
    table = found.table(costs)
    write_table(output, table)
    facts |= {
        "score": probe.score,
        "chance": found.pretrained.chance,
        "folds": f"{probe.n_folds} by group, {probe.n_inner_folds} inside, seed {probe.seed}",
        "penalties": probe.penalties,
        "sweet_spot": found.sweet_spot(),
        "sweet_spot_rule": "shallowest layer within one standard error of the best",
    }
    write_text(output.with_suffix(".json"), json.dumps(facts, indent=1))
    lines = [
        f"knowledge gain of {facts['encoder']}, {facts['n']} {facts['unit']}, {probe.score}",
        table.to_string(index=False, float_format="{:.3f}".format),
        f"sweet spot: {facts['sweet_spot']} ({facts['sweet_spot_rule']})",
        f"wrote {output}",
    ]
    gains = json.loads(table.set_index("layer")["gain"].to_json())
    metrics = {"gain": gains, "sweet_spot": facts["sweet_spot"]}
    return Done(lines, [output, output.with_suffix(".json")], metrics)
