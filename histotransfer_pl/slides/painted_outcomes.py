"""Painted slides whose outcomes are drawn into the texture: survival, a score, labels, scanners.

Each patient has a burden from 0 to 1, the share of atypical nuclei all over its slide, and may have
crowded nests of small nuclei. Both are painted; everything in the table follows from them with a
known noise, so that what a model finds can be held against the truth. Columns ``control_...`` hold
the same values shuffled over the patients: nobody can learn them.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.tables import write_table
from histotransfer_pl.slides.painting import mix_stain, paint_section
from histotransfer_pl.slides.synthetic import (
    SYNTHETIC_MPP,
    already_painted,
    start_painting,
    write_pyramid,
)

PAINT_VERSION = 1
SMALLEST_PX = 512
_MOST_ATYPICAL = 0.7
"""Share of atypical nuclei at a burden of 1."""
_TARGETS = ("score", "months", "died", "atypical", "crowded", "label")


def paint_outcomes(
    folder: str | Path = "demo_outcomes",
    n_patients: int = 40,
    size_px: int = 1024,
    scanner: float = 0.0,
    seed: int = 0,
) -> Path:
    """Paint one slide per patient, and a table of what can be predicted from it.

    Columns: ``score`` (20 to 80, standard error 3), ``months`` and ``died`` (exponential, with a
    log hazard ratio of 4 from burden 0 to 1, censored between 6 and 60 months), ``atypical`` and
    ``crowded`` (0 or 1), ``label`` (low or high burden), ``scanner`` (A or B), ``age`` and ``sex``
    (age adds to the hazard, sex says nothing), and all targets shuffled as ``control_...``.

    Args:
        folder: Where ``slides/`` and ``cohort.csv`` go.
        n_patients: Number of patients, an even number from 12.
        size_px: Side of a slide in pixels of half a micrometre.
        scanner: How unlike the pictures of scanners A and B are: 0 not at all, 1 plainly.
        seed: Seed of the paint.

    Returns:
        The path of ``cohort.csv``.
    """
    if n_patients < 12 or n_patients % 2 or size_px < SMALLEST_PX or not 0 <= scanner <= 1:
        raise ConfigError(
            f"n_patients is {n_patients}, size_px {size_px} and scanner {scanner}: expected an "
            f"even number from 12, at least {SMALLEST_PX}, and 0 to 1"
        )
    place = Path(folder)
    settings = {
        "outcomes_version": PAINT_VERSION,
        "n_patients": n_patients,
        "size_px": size_px,
        "scanner": scanner,
        "seed": seed,
    }
    if already_painted(place, settings):
        return place / "cohort.csv"
    table = draw_outcomes(n_patients, seed)
    start_painting(place, settings)
    for number, row in table.iterrows():
        rng = np.random.default_rng([seed, int(str(number)), 7])
        painted = paint_section(
            rng,
            size_px,
            mix_stain(rng),
            tumour=False,
            atypical=_MOST_ATYPICAL * float(row["burden"]),
            crowded=bool(row["crowded"]),
        )
        rgb = scan(painted.rgb, scanner) if row["scanner"] == "B" else painted.rgb
        write_pyramid(place / str(row["path"]), rgb, SYNTHETIC_MPP)
    write_table(place / "cohort.csv", table)
    return place / "cohort.csv"


def draw_outcomes(n_patients: int, seed: int) -> pd.DataFrame:
    """The table of a painted cohort; burden, nests and scanners do not depend on one another."""
    rng = np.random.default_rng([seed, n_patients])
    half = np.arange(n_patients) % 2
    burden = rng.permutation(np.linspace(0, 1, n_patients)).round(4)
    crowded, coin = rng.permutation(half), rng.permutation(half)
    # One of each two patients alike in nests and burden: among few, chance would tie them together.
    pairs = np.lexsort((burden, crowded)).reshape(-1, 2)  # (patients / 2, 2)
    scanner = np.zeros(n_patients, int)
    scanner[pairs[np.arange(n_patients // 2), coin[: n_patients // 2]]] = 1
    age = rng.integers(45, 80, n_patients)
    hazard = np.exp(4 * (burden - 0.5) + 0.04 * (age - 62))
    time, end = rng.exponential(30 / hazard), rng.uniform(6, 60, n_patients)
    ids = [f"patient_{n:02d}" for n in range(n_patients)]
    table = pd.DataFrame(
        {
            "slide_id": ids,
            "path": [f"slides/{name}.tiff" for name in ids],
            "patient_id": ids,
            "burden": burden,
            "score": (20 + 60 * burden + rng.normal(0, 3, n_patients)).round(1),
            "months": np.minimum(time, end).round(2) + 0.01,
            "died": (time <= end).astype(int),
            "atypical": (burden > 0.5).astype(int),
            "crowded": crowded,
            "label": np.where(burden > 0.5, "high", "low"),
            "scanner": np.where(scanner == 1, "B", "A"),
            "age": age,
            "sex": np.where(rng.permutation(half) == 1, "f", "m"),
        }
    )
    shuffled = table.loc[rng.permutation(n_patients), list(_TARGETS)].reset_index(drop=True)
    return table.join(shuffled.add_prefix("control_"))


def scan(rgb: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """The picture of another scanner: warmer and with less contrast, by so much of a plain change.

    Args:
        rgb: (h, w, 3) as scanner A sees it.
        strength: 0 changes nothing.
    """
    gain = 1 - strength * np.array([0.02, 0.10, 0.18], np.float32)  # (3,) white turns yellow
    light = rgb.astype(np.float32) * gain
    faded = light + strength * 0.15 * (gain * 245 - light)
    return np.asarray(np.clip(faded.round(), 0, 255), np.uint8)
