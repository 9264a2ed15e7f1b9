"""Encoders of one's own: a YAML file that describes a network, and any `nn.Module` cut by hooks."""

import importlib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from histotransfer_pl.encoders.entry import EncoderEntry, Pooling, WeightsSource
from histotransfer_pl.encoders.keys import KeyMap
from histotransfer_pl.encoders.timm_models import initialised
from histotransfer_pl.encoders.truncation import Stage, Trunk, average, unknown_depth
from histotransfer_pl.encoders.vit import pool_tokens
from histotransfer_pl.errors import EncoderError
from histotransfer_pl.records.yaml_files import YamlError, read_yaml

_FACTS = frozenset({"mean", "std", "native_px", "native_mpp", "pooling", "prefix_tokens"}) | {
    "licence",
    "citation",
    "note",
}
_KEYS = _FACTS | {"class_path", "init_args", "architecture", "model_args", "depths"}
_KEYS |= {"files", "rename", "drop"}


def own_entry(path: Path) -> EncoderEntry:
    """The entry that a YAML file describes; its name is the file's.

    Its keys: `class_path`, `init_args` and `depths` (name: module, shallowest first) for any
    network, or `architecture` and `model_args` for one of timm; `mean`, `std`, `native_px`,
    `native_mpp`, `pooling`, `prefix_tokens`, `files` (names in the weights folder), `rename`
    (pairs of a regular expression and its replacement) and `drop` (beginnings) for the keys of
    its checkpoint, `licence`, `citation`, `note`.
    """
    try:
        said = read_yaml(path)
    except (OSError, YamlError) as error:
        raise EncoderError(
            f"{path} can't be read as the description of an encoder: {error}"
        ) from error
    if not isinstance(said, dict) or set(said) - _KEYS:
        unknown = sorted(map(str, set(said) - _KEYS)) if isinstance(said, dict) else "no mapping"
        raise EncoderError(
            f"{path} describes no encoder: found {unknown}, expected {', '.join(sorted(_KEYS))}"
        )
    places = said.get("depths", {})
    if ("class_path" in said) == ("architecture" in said) or ("class_path" in said) != bool(places):
        raise EncoderError(
            f"{path} must say either class_path with depths (name: module), or architecture (a "
            "name in timm)"
        )
    facts = {key: said[key] for key in _FACTS & set(said)}
    for key in ("mean", "std"):
        facts |= {key: tuple(map(float, facts[key]))} if key in facts else {}
    files = tuple(said.get("files", (f"{path.stem}.safetensors",)))
    defaults = {"licence": "not said", "citation": str(path)}
    return EncoderEntry(
        name=path.stem,
        architecture=str(said.get("class_path") or said["architecture"]),
        domain="other",
        source=WeightsSource(files=files, page=str(path)),
        keys=KeyMap(
            rename=tuple((str(old), str(new)) for old, new in said.get("rename", ())),
            drop=tuple(said.get("drop", ())),
        ),
        options=said.get("init_args") or said.get("model_args") or {},
        places=places,
        **(defaults | facts),
    )


def build_own_trunk(entry: EncoderEntry, seed: int | None) -> Trunk:
    """Build a network by its import path, and name the places at which it is cut."""
    module_name, _, attribute = entry.architecture.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
        network: nn.Module = initialised(lambda: _network(factory, entry), seed)
    except EncoderError:
        raise
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise EncoderError(
            f"{entry.architecture}({dict(entry.options)}) can't be built: {error}; give class_path "
            "the import path of a class or function, and init_args its arguments"
        ) from error
    modules = dict(network.named_modules())
    for depth, place in entry.places.items():
        if place not in modules:
            raise EncoderError(
                f"depth {depth}: {entry.architecture} has no module {place!r}; its modules are "
                f"{', '.join(itertools.islice(filter(None, modules), 12))}, ..."
            )
    return OwnTrunk(network, entry.places, entry.pooling, entry.prefix_tokens, entry.native_px)


def _network(factory: Callable[..., object], entry: EncoderEntry) -> nn.Module:
    network = factory(**entry.options)
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise EncoderError(f"{entry.architecture} gives a {kind}, expected a torch nn.Module")
    return network


class _DeepestReached(Exception):  # noqa: N818
    """The deepest wanted module has run; what lies behind need not."""


class OwnTrunk(Trunk):
    """Any network, observed at named modules and stopped behind the deepest of them.

    What lies behind a cut is what an empty image reaches later: one pass at the start notes in
    which order the modules begin and end. A module's output must be (B, D), (B, D, h, w) or tokens
    (B, T, D).
    """

    incremental = False

    def __init__(
        self,
        network: nn.Module,
        places: Mapping[str, str],
        pooling: Pooling,
        prefix_tokens: int,
        native_px: int,
    ) -> None:
        super().__init__(network, [Stage(depth, (place,)) for depth, place in places.items()])
        self.pooling = pooling
        self.prefix_tokens = prefix_tokens
        self.least_px = 1
        self._begins, self._ends = self._observe(native_px)
        order = [self._ends.get(place, -1) for place in places.values()]
        if -1 in order or order != sorted(order):
            raise EncoderError(
                f"depths {', '.join(places)} must be modules that run, in the order in which they "
                f"end; they end at {order}"
            )

    @override
    def forward(self, images: Tensor, depths: Collection[str]) -> dict[str, Tensor]:
        kept: dict[str, Tensor] = {}
        deepest = max(depths, key=self._index)
        with self._kept(depths, deepest, kept), suppress(_DeepestReached):
            self.network(images)
        return {depth: kept[depth] for depth in depths}

    @override
    def vector(self, depth: str, output: Tensor) -> Tensor:
        values = output.to(torch.promote_types(output.dtype, torch.float32))
        if values.ndim == 4:
            return average(values)
        return values if values.ndim == 2 else self._pool(values)

    @override
    def map(self, depth: str, output: Tensor, sides: tuple[int, int]) -> Tensor:
        if output.ndim == 4:
            return output
        if output.ndim == 2:
            return output[:, :, None, None]
        patches = output[:, self.prefix_tokens :].transpose(1, 2)  # (B, D, h w)
        side = round(patches.shape[2] ** 0.5)
        return patches.reshape(*patches.shape[:2], side, side)

    def _pool(self, tokens: Tensor) -> Tensor:
        pooling: Pooling = "mean" if self.pooling == "average" else self.pooling
        if pooling != "mean" and self.prefix_tokens == 0:
            raise EncoderError(
                f"pooling {pooling!r} needs a class token: set prefix_tokens, or pooling: mean"
            )
        return pool_tokens(tokens, pooling, self.prefix_tokens)

    @contextmanager
    def _kept(
        self, depths: Collection[str], deepest: str, kept: dict[str, Tensor]
    ) -> Iterator[None]:
        def keep(depth: str, output: Any) -> None:
            if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
                raise EncoderError(
                    f"depth {depth} gives {type(output).__name__}, expected a tensor (B, D), "
                    "(B, D, h, w) or (B, T, D): name another module"
                )
            kept[depth] = output
            if depth == deepest:
                raise _DeepestReached

        places = {stage.depth: stage.modules[0] for stage in self.stages}
        unknown = [depth for depth in depths if depth not in places]
        if unknown:
            raise unknown_depth(unknown[0], self.depths)
        hooks = [
            self.network.get_submodule(places[depth]).register_forward_hook(
                lambda _module, _inputs, output, depth=depth: keep(depth, output)
            )
            for depth in depths
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _observe(self, side: int) -> tuple[dict[str, int], dict[str, int]]:
        """When each module begins and ends for the first time in a pass, as running numbers."""
        begins: dict[str, int] = {}
        ends: dict[str, int] = {}
        clock = itertools.count()

        def note(times: dict[str, int], name: str) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                times.setdefault(name, next(clock))

            return hook

        hooks = []
        for name, module in self.network.named_modules():
            hooks.append(module.register_forward_pre_hook(note(begins, name)))
            hooks.append(module.register_forward_hook(note(ends, name)))
        device = next((parameter.device for parameter in self.network.parameters()), None)
        training = self.network.training
        try:
            with torch.no_grad():
                self.network.eval()(torch.zeros(1, 3, side, side, device=device))
        finally:
            self.network.train(training)
            for hook in hooks:
                hook.remove()
        return begins, ends

    @override
    def _modules_behind(self, depth: str) -> list[str]:
        """Outermost modules that begin after a depth has ended.

        One that never begins by itself, such as a layer whose weights its parent uses, goes with
        its parent.
        """
        end = self._ends[self.stages[self._index(depth)].modules[0]]
        found: list[str] = []
        for name, _ in self.network.named_modules():
            inside = any(name.startswith(f"{outer}.") for outer in found)
            if name and not inside and self._begins.get(name, -1) > end:
                found.append(name)
        return found
