"""A small cohort of features, and the command line in this process."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histotransfer_pl.cli.main import main
from histotransfer_pl.store.importer import import_arrays

Run = Callable[..., int]


@pytest.fixture(autouse=True)
def _no_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B takes a second a run; the test that is about it turns it on again."""
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A folder with ``s.zarr`` and ``c.csv``: 20 patients, two slides each, a learnable class."""
    rng = np.random.default_rng(0)
    rows, features, owners = [], [], []
    for p in range(20):
        for i in range(2):
            label = p % 2
            n = int(rng.integers(2, 9))
            values = rng.normal(size=(n, 6)).astype(np.float32)
            values[0] += 1.5 * label
            features.append(values)
            owners += [f"p{p:02}/{i}"] * n
            rows.append({"slide_id": f"p{p:02}/{i}", "patient_id": f"p{p:02}", "label": label})
    import_arrays(tmp_path / "s.zarr", np.concatenate(features), np.array(owners), "toy", "last")
    pd.DataFrame(rows).to_csv(tmp_path / "c.csv", index=False)
    return tmp_path


@pytest.fixture
def run(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb on the cohort, in its folder; later arguments override."""
    monkeypatch.chdir(cohort)

    def call(verb: str, *arguments: str, epochs: int = 2) -> int:
        data = ["--data.store", "s.zarr", "--data.cohort", "c.csv"]
        trainer = ["--trainer.max_epochs", str(epochs), "--trainer.enable_progress_bar", "false"]
        trainer += ["--overwrite", "true"] if verb == "fit" else []
        return main([verb, "--run_dir", "r", *data, *trainer, *arguments])

    return call
