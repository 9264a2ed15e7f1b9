"""Peak memory of a computation, counted in tensors."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that operations create and that are still alive.

    The operating system only knows the peak of the whole process since its start, so on a CPU the
    depths of an encoder could not be told apart. Scratch space inside an operation isn't seen.

    Attributes:
        peak: Largest number of bytes alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: int = 0
        self.peak: int = 0
        self._known: set[int] = set()

    @override
    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._take(leaf.untyped_storage(), 0)  # what came in isn't counted
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self._take(storage, storage.nbytes())
        return result

    def _take(self, storage: torch.UntypedStorage, nbytes: int) -> None:
        """Count a storage until it is freed: another may then lie at its address."""
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.alive += nbytes
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, key, nbytes)

    def _forget(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self.alive -= nbytes
