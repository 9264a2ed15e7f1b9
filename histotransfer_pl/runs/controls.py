"""Whether a depth of an encoder is better than random networks that were cut at the same depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from histotransfer_pl.analysis.bootstrap import Interval
from histotransfer_pl.analysis.control import gap_to_controls
from histotransfer_pl.errors import AnalysisError
from histotransfer_pl.runs.results import ArmResult
from histotransfer_pl.runs.study import Network

COLOUR = "colour"
"""Network of the encoder that sees the mean and deviation of the channels and nothing else."""


@dataclass(frozen=True, eq=False)
class Control:
    """A depth against the random networks at the same depth, all else equal.

    Attributes:
        gap: AUROC minus the mean AUROC of the random networks, with its interval over patients.
        networks: How many random networks there are.
    """

    gap: Interval
    networks: int

    @property
    def better(self) -> bool:
        """Whether the interval leaves nothing but a gain."""
        return self.gap.low > 0


def is_random(result: ArmResult) -> bool:
    """Whether an arm's encoder was taught nothing."""
    return result.arm.key.weights_kind == "random"


def control_of(
    result: ArmResult, results: Sequence[ArmResult], networks: Mapping[str, Network]
) -> Control | None:
    """The control of an arm; None if it is random itself, or if there is none that fits."""
    key = result.arm.key
    same = key._replace(encoder="", weights="", weights_kind="")
    random = [
        other
        for other in results
        if is_random(other)
        and other.complete
        and networks.get(other.arm.key.encoder) == networks.get(key.encoder)
        and other.arm.key._replace(encoder="", weights="", weights_kind="") == same
    ]
    if is_random(result) or not random or key.encoder not in networks:
        return None
    cells = set(result.arm.cells).intersection(*(other.arm.cells for other in random))
    try:
        gap = gap_to_controls(
            result.arm.predictions(cells), [other.arm.predictions(cells) for other in random]
        )
    except AnalysisError:
        return None
    return Control(gap, len(random))
