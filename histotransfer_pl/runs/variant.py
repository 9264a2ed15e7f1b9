"""How the encoder of an arm was made: frozen, or tuned on which patches, and read by which head."""

from typing import NamedTuple

from typing_extensions import override

from histotransfer_pl.records.run import SelectionSpec

_RULES = {
    "topk": "tuned on top-k",
    "random": "tuned on random patches",
    "bottom": "tuned on bottom-k",
}
_METHODS = {"lora": "adapters", "last_blocks": "last blocks"}
_OWN_HEAD = "-joint"


class Variant(NamedTuple):
    """A variant; its text is what plans and tables hold.

    Attributes:
        rule: Patches that the encoder was tuned on: `topk`, `random`, `bottom`, or the rule of a
            selection; `frozen` if it was not tuned.
        method: What of the encoder was tuned.
        own_head: Whether it is read by the head that it was tuned with.
        plain: Whether it is a run without a plan, known by its selection.
    """

    rule: str = "frozen"
    method: str = "full"
    own_head: bool = False
    plain: bool = False

    @classmethod
    def read(cls, text: str) -> "Variant":
        """The variant that a plan calls so.

        Example:
            >>> Variant.read("topk+lora-joint")
            Variant(rule='topk', method='lora', own_head=True, plain=False)
        """
        rule, _, method = text.removesuffix(_OWN_HEAD).partition("+")
        return cls(rule or "frozen", method or "full", text.endswith(_OWN_HEAD))

    @override
    def __str__(self) -> str:
        method = "" if self.method == "full" else f"+{self.method}"
        return f"{self.rule}{method}{_OWN_HEAD if self.own_head else ''}"

    @property
    def frozen(self) -> bool:
        """Whether the encoder is as it came."""
        return self.rule == "frozen"

    @property
    def label(self) -> str:
        """How the page calls it: ``random`` alone could be mistaken for random weights."""
        if self.frozen:
            return self.rule
        if self.plain:
            return f"tuned on {self.rule}"
        method = "" if self.method == "full" else f" ({_METHODS.get(self.method, self.method)})"
        own = ", its own head" if self.own_head else ""
        return f"{_RULES.get(self.rule, self.rule)}{method}{own}"


def variant_of_selection(selection: SelectionSpec | None) -> Variant:
    """The variant of a run without a plan; None for one that tuned nothing."""
    if selection is None:
        return Variant()
    return Variant(f"{selection.rule}-{selection.k}", plain=True)
