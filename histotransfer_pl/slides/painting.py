"""Paints a section of tissue that looks like H&E, with or without foci of a painted tumour.

The two classes differ in how nuclei look from near: in a focus they are fewer, larger, of uneven
outline and with clumped chromatin. The amount of haematoxylin per area is the same, so the mean
colour of a patch does not give the class away; crowds of small dark nuclei, which do change the
colour, occur in both. This is paint for showing the machinery, not a model of any disease.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from histotransfer_pl.slides.outlines import fill_polygon

Floats = NDArray[np.float32]

COARSE_PX = 16
"""Regions are laid out on a map this many times coarser than the picture."""

_BANK_PX = 1024  # side of the seamless noise textures
_STAMP_PX = 28  # side of the square that holds one nucleus
_N_STAMPS = 64  # different nuclei of each kind
_SPACING_PX = {"normal": 21.0, "crowded": 13.0}  # mean distance of neighbouring nuclei
_ATYPICAL_IN_FOCUS = 0.6  # share of a focus's nuclei that look like tumour
_ATYPICAL_ELSEWHERE = 0.08  # largest share of them in normal tissue: it varies from slide to slide

# Ruifrok & Johnston (2001): optical density of red, green, blue per stain, normalised.
_HAEMATOXYLIN = np.array([0.650, 0.704, 0.286])
_EOSIN = np.array([0.072, 0.990, 0.105])


@dataclass(frozen=True)
class Stain:
    """How one laboratory stained one patient's slides.

    Attributes:
        haematoxylin: (3,) optical density of red, green and blue at unit amount.
        eosin: (3,) the same for eosin.
        glass: (3,) grey levels of the empty slide.
    """

    haematoxylin: NDArray[np.float64]
    eosin: NDArray[np.float64]
    glass: NDArray[np.float64]


@dataclass(frozen=True)
class Painted:
    """A painted section.

    Attributes:
        rgb: (h, w, 3) uint8 picture.
        foci: Outlines of the tumour foci, each (n, 2) x, y in pixels; none in a normal section.
    """

    rgb: NDArray[np.uint8]
    foci: list[NDArray[np.float64]]


def mix_stain(rng: np.random.Generator) -> Stain:
    """A stain as it varies between patients: hue and strength of both dyes, tint of the glass."""

    def dye(vector: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
        turned = np.abs(vector + rng.normal(0, 0.04, 3))
        scaled: NDArray[np.float64] = turned / np.linalg.norm(turned)
        return scaled * strength * rng.uniform(0.8, 1.25)

    return Stain(dye(_HAEMATOXYLIN, 1.15), dye(_EOSIN, 0.75), rng.uniform(238, 246, 3))


def paint_section(
    rng: np.random.Generator,
    size_px: int,
    stain: Stain,
    *,
    tumour: bool,
    n_foci: int | None = None,
    focus_scale: float = 1.0,
    atypical: float | None = None,
    crowded: bool | None = None,
) -> Painted:
    """Paints one section of tissue on glass.

    Args:
        rng: Source of everything that varies; the same state paints the same section.
        size_px: Side of the square picture, half a micrometre a pixel.
        stain: Colours of the dyes.
        tumour: Whether to paint foci of tumour.
        n_foci: How many; two or three when None.
        focus_scale: Their size; 1 gives radii of about a tenth of the section's side.
        atypical: Share of the nuclei outside foci that look like tumour; a few when None.
        crowded: Whether there are nests of small nuclei; four small ones when None.
    """
    coarse = -(-size_px // COARSE_PX)
    tissue = _tissue_map(rng, coarse)  # (c, c), above 0 where there is tissue
    solid = ndimage.distance_transform_edt(tissue > 0.05)  # coarse pixels to the tissue's edge
    # Drawn in both classes, so that they differ in nothing else.
    count = rng.integers(2, 4) if n_foci is None else n_foci
    outlines = [_focus(rng, solid, focus_scale) for _ in range(count)]
    nests = [_focus(rng, solid, 1.2 if crowded else 0.4) for _ in range(4)]
    crowds = _filled([] if crowded is False else nests, coarse)
    foci = _filled(outlines, coarse) if tumour else np.zeros((coarse, coarse), np.bool_)
    cover = np.clip(_enlarge(tissue, size_px) * 12, 0, 1)

    haze = np.maximum(_tiled(_noise(rng, 6.0, 6.0), rng, size_px, around=1.0), 0)
    haematoxylin = 0.1 * cover * haze
    kinds = {"tumour": foci, "crowded": crowds & ~foci, "normal": ~crowds & ~foci}
    for kind, region in kinds.items():
        share = atypical if kind == "normal" else None
        _stamp(haematoxylin, rng, kind, region & (tissue > 0.04), share)
    eosin = cover * (0.55 + 0.16 * _fibres(rng, size_px))
    foci_px = [outline * COARSE_PX for outline in outlines] if tumour else []
    return Painted(_develop(haematoxylin, eosin, stain, rng), foci_px)


def _noise(rng: np.random.Generator, sigma_y: float, sigma_x: float) -> Floats:
    """Seamless noise of unit variance, smooth over these lengths in pixels."""
    white = rng.standard_normal((_BANK_PX, _BANK_PX), dtype=np.float32)
    smooth = ndimage.gaussian_filter(white, (sigma_y, sigma_x), mode="wrap", truncate=3)
    return np.asarray(smooth / smooth.std(), np.float32)


def _tiled(bank: Floats, rng: np.random.Generator, size: int, around: float = 0.0) -> Floats:
    """Seamless noise laid out over the whole picture from a random start."""
    shifted = np.roll(bank, rng.integers(0, _BANK_PX, 2), (0, 1)) + np.float32(around)
    repeats = -(-size // _BANK_PX)
    return np.tile(shifted, (repeats, repeats))[:size, :size]


def _smooth_map(rng: np.random.Generator, coarse: int, sigma: float) -> Floats:
    white = rng.standard_normal((coarse, coarse), dtype=np.float32)
    smooth = ndimage.gaussian_filter(white, sigma, mode="reflect")
    return np.asarray(smooth / smooth.std(), np.float32)


def _tissue_map(rng: np.random.Generator, coarse: int) -> Floats:
    """A lobed piece of tissue with clefts and round holes: positive inside, on the coarse map."""
    y, x = (np.mgrid[:coarse, :coarse] + 0.5) / coarse - 0.5
    angle = rng.uniform(0, np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    a, b = rng.uniform(0.42, 0.50), rng.uniform(0.36, 0.44)
    body = 1 - np.hypot(u / a, v / b) + 0.10 * _smooth_map(rng, coarse, coarse / 14)
    holes = 1.9 - _smooth_map(rng, coarse, coarse / 40)
    tissue: Floats = np.minimum(body, 0.5 * holes).astype(np.float32)
    return tissue


def _focus(
    rng: np.random.Generator, solid: NDArray[np.float64], scale: float = 1.0
) -> NDArray[np.float64]:
    """A lobed outline (n, 2) x, y on the coarse map, centred well inside the tissue."""
    inner = solid >= 0.5 * solid.max()
    centre = rng.permutation(np.argwhere(inner))[0][::-1] + 0.5
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.ones_like(angle)
    for wave in (2, 3, 5):
        radius += rng.normal(0, 0.25 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    radius *= scale * rng.uniform(0.09, 0.13) * solid.shape[0]
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    outline: NDArray[np.float64] = centre + radius[:, None] * around
    return outline


def _filled(outlines: list[NDArray[np.float64]], coarse: int) -> NDArray[np.bool_]:
    mask = np.zeros((coarse, coarse), np.bool_)
    for outline in outlines:
        fill_polygon(mask, [outline])
    return mask


def _enlarge(coarse: Floats, size_px: int) -> Floats:
    side = coarse.shape[0] * COARSE_PX
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)[:size_px, :size_px]


def _nucleus(rng: np.random.Generator, kind: str) -> Floats:
    """Amount of haematoxylin (28, 28) of one nucleus."""
    y, x = np.mgrid[:_STAMP_PX, :_STAMP_PX] - (_STAMP_PX - 1) / 2
    if kind == "tumour":
        long, short, uneven, clumps = rng.uniform(6, 10), rng.uniform(5, 7.5), 0.05, 0.35
    elif kind == "crowded":
        long, short, uneven, clumps = rng.uniform(4.2, 5.2), rng.uniform(4, 4.8), 0.02, 0.10
    else:
        long, short, uneven, clumps = rng.uniform(5, 9), rng.uniform(4, 5.5), 0.03, 0.10
    angle = rng.uniform(0, np.pi)
    u = (x * np.cos(angle) + y * np.sin(angle)) / long
    v = (y * np.cos(angle) - x * np.sin(angle)) / short
    theta, radius = np.arctan2(v, u), np.hypot(u, v)
    for wave in (2, 3, 4):
        radius = radius * (1 + rng.normal(0, uneven) * np.cos(wave * theta + rng.uniform(0, 7)))
    body = 1 / (1 + np.exp((radius - 1) * 9))
    grain = ndimage.gaussian_filter(rng.standard_normal(body.shape), 1.3)
    chromatin = 1 + clumps * grain / grain.std()
    if kind == "tumour":  # a pale nucleus with a dark rim
        chromatin += 0.5 * np.exp(-(((radius - 0.85) / 0.18) ** 2)) - 0.2
    return np.asarray(body * np.clip(chromatin, 0.15, 2.2), np.float32)


def _palette(
    rng: np.random.Generator, kind: str, share: float | None
) -> tuple[list[Floats], float]:
    """The nuclei of one kind of region, and how far apart they lie in pixels."""
    if kind == "crowded":
        return [_nucleus(rng, kind) for _ in range(_N_STAMPS)], _SPACING_PX[kind]
    if share is None:
        share = _ATYPICAL_IN_FOCUS if kind == "tumour" else rng.uniform(0, _ATYPICAL_ELSEWHERE)
    atypical = round(share * _N_STAMPS)
    normal = [_nucleus(rng, "normal") for _ in range(_N_STAMPS)]
    stamps = [_nucleus(rng, "tumour") for _ in range(atypical)] + normal[atypical:]
    # As much haematoxylin per area with larger nuclei as without: they lie further apart.
    return stamps, _SPACING_PX["normal"] * float(np.sqrt(np.sum(stamps) / np.sum(normal)))


def _stamp(
    haematoxylin: Floats,
    rng: np.random.Generator,
    kind: str,
    region: NDArray[np.bool_],
    share: float | None,
) -> None:
    """Adds the nuclei of one kind to a region of the coarse map, in place."""
    stamps, spacing = _palette(rng, kind, share)
    strength = rng.uniform(0.7, 1.0, _N_STAMPS).astype(np.float32)
    size = haematoxylin.shape[0]
    line = np.arange(0, size, spacing)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    places = (grid + rng.uniform(0, 0.9 * spacing, grid.shape)).astype(int)
    inside = (places < size).all(axis=1)
    inside[inside] = region[tuple((places[inside] // COARSE_PX).T)]
    half = _STAMP_PX // 2
    places = places[inside] - half
    inside_picture = ((places >= 0) & (places + _STAMP_PX <= size)).all(axis=1)
    which = rng.integers(0, _N_STAMPS, len(places))
    for (top, left), index in zip(places[inside_picture].tolist(), which.tolist(), strict=False):
        place = haematoxylin[top : top + _STAMP_PX, left : left + _STAMP_PX]
        np.maximum(place, stamps[index] * strength[index], out=place)


def _fibres(rng: np.random.Generator, size_px: int) -> Floats:
    """Streaks of eosin that change their direction over the section, about -2 to 2."""
    along = _tiled(_noise(rng, 1.5, 14.0), rng, size_px)
    across = _tiled(_noise(rng, 14.0, 1.5), rng, size_px)
    cells = _tiled(_noise(rng, 4.0, 4.0), rng, size_px)
    coarse = -(-size_px // COARSE_PX)
    blend = np.clip(0.5 + 0.5 * _enlarge(_smooth_map(rng, coarse, coarse / 12), size_px), 0, 1)
    fibres: Floats = 0.6 * (across + blend * (along - across)) + 0.6 * cells
    return fibres


def _develop(
    haematoxylin: Floats, eosin: Floats, stain: Stain, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Light through the dyes (Beer-Lambert), with the camera's noise."""
    rgb = np.empty((*haematoxylin.shape, 3), np.uint8)
    noise = _tiled(_noise(rng, 0.4, 0.4), rng, haematoxylin.shape[0])
    for channel in range(3):
        density = np.float32(stain.haematoxylin[channel]) * haematoxylin
        density += np.float32(stain.eosin[channel]) * eosin
        light = np.float32(stain.glass[channel]) * np.exp(-density) + 1.2 * noise
        rgb[:, :, channel] = np.clip(light, 0, 255).astype(np.uint8)
    return rgb
