"""Which patches a slide is cut into, and how tissue is found."""

from dataclasses import dataclass, field, replace
from typing import Literal

from typing_extensions import override

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.record import Json, Record

SlideMpp = float | Literal["native"] | None
"""Micrometres per pixel, or ``native``: level 0 counts as having the resolution of the patches, so
that a slide is read in its own pixels. None asks the file."""

Method = Literal["otsu", "threshold", "non_white", "none"]


@dataclass(frozen=True)
class TissueSettings(Record):
    """How tissue is told from glass.

    Colourfulness is the largest minus the smallest of a pixel's three channels, over 255. It is
    saturation without its division, which would turn the noise of near-black pixels into the
    strongest colour of the slide.

    Args:
        method: ``otsu``: colourfulness above Otsu's threshold. ``threshold``: above
            ``saturation_threshold``. ``non_white``: all that is not paper-white, for tissue cut
            out and pasted on white. ``none``: the whole slide.
        mpp: Resolution of the thumbnail in micrometres per pixel; never finer than the slide.
        min_area_um2: Smaller pieces of tissue are dropped.
        fill_holes_um2: Smaller holes in tissue are filled.
        saturation_threshold: Colourfulness from 0 to 1 for ``threshold``.
        white_level: For ``non_white``: white is a pixel whose channels all reach this.

    Raises:
        ConfigError: If a number is out of its range or the threshold is missing.
    """

    method: Method = "otsu"
    mpp: float = 8.0
    min_area_um2: float = 10_000.0
    fill_holes_um2: float = 20_000.0
    saturation_threshold: float | None = None
    white_level: int = 250

    def __post_init__(self) -> None:
        if self.method not in ("otsu", "threshold", "non_white", "none"):
            raise ConfigError(
                f"tissue method is {self.method!r}, expected otsu, threshold, non_white or none"
            )
        if not 0 < self.mpp < float("inf"):
            raise ConfigError(f"tissue mpp is {self.mpp}, expected a positive number")
        if self.min_area_um2 < 0 or self.fill_holes_um2 < 0:
            raise ConfigError("min_area_um2 and fill_holes_um2 are areas, expected 0 or more")
        given = self.saturation_threshold
        if self.method == "threshold" and (given is None or not 0 <= given <= 1):
            raise ConfigError(
                f"saturation_threshold is {given}, expected a number from 0 to 1 (try 0.1)"
            )


@dataclass(frozen=True)
class GridSettings(Record):
    """Which patches a slide is cut into; two stores agree only if these do.

    Args:
        patch_px: Side of a patch in pixels, after resampling to ``mpp``.
        mpp: Resolution of a patch in micrometres per pixel.
        overlap_px: Pixels that two neighbouring patches share.
        min_tissue: Smallest share of a patch that must be tissue; 0 keeps every patch.
        tissue: How tissue is found.
        allow_enlarging: Cut slides that are coarser than ``mpp``, too, whose pixels are enlarged.

    Raises:
        ConfigError: If a number is out of its range.
    """

    patch_px: int = 224
    mpp: float = 0.5
    overlap_px: int = 0
    min_tissue: float = 0.5
    tissue: TissueSettings = field(default_factory=TissueSettings)
    allow_enlarging: bool = False

    def __post_init__(self) -> None:
        if self.patch_px < 1:
            raise ConfigError(f"patch_px is {self.patch_px}, expected 1 or more")
        if not 0 < self.mpp < float("inf"):
            raise ConfigError(f"mpp is {self.mpp}, expected a positive number of micrometres")
        if not 0 <= self.overlap_px < self.patch_px:
            raise ConfigError(
                f"overlap_px is {self.overlap_px}, expected 0 to {self.patch_px - 1}: "
                "neighbouring patches must differ"
            )
        if not 0 <= self.min_tissue <= 1:
            raise ConfigError(f"min_tissue is {self.min_tissue}, expected a share from 0 to 1")

    @override
    def to_json(self) -> Json:
        """The fields as plain JSON types; a permission that is not given is left out."""
        plain = super().to_json()
        if not self.allow_enlarging:
            del plain["allow_enlarging"]
        return plain

    def for_store(self) -> Json:
        """What two stores must share: the permission to enlarge changes no patch."""
        return replace(self, allow_enlarging=False).to_json()
