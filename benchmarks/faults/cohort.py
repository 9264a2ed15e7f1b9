"""A cohort of features that trains within a second."""

from pathlib import Path

import numpy as np

from histotransfer_pl.store.importer import import_arrays

N_PATIENTS = 12


def make_cohort(folder: Path) -> None:
    """``s.zarr`` and ``c.csv``: twelve patients, two slides each, two classes."""
    rng = np.random.default_rng(0)
    rows, features, owners = ["slide_id,patient_id,label"], [], []
    for patient in range(N_PATIENTS):
        for number in range(2):
            name = f"p{patient:02}s{number}"
            values = rng.normal(size=(int(rng.integers(2, 6)), 6))  # (N, D)
            features.append(values + patient % 2)
            owners += [name] * len(values)
            rows.append(f"{name},p{patient:02},{('neg', 'pos')[patient % 2]}")
    store = folder / "s.zarr"
    import_arrays(
        store, np.concatenate(features).astype("float32"), np.array(owners), "toy", "last"
    )
    (folder / "c.csv").write_text("\n".join(rows) + "\n")


def fit_arguments(folder: Path, table: str = "c.csv") -> list[str]:
    """The command line of a fit of one epoch on it."""
    return [
        *("fit", "--run_dir", str(folder / "run"), "--overwrite", "true"),
        *("--data.store", str(folder / "s.zarr"), "--data.cohort", str(folder / table)),
        *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
        *("--trainer.accelerator", "cpu", "--data.n_folds", "3"),
    ]
