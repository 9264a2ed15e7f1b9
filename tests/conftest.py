"""Fixtures that several layers share."""

import os
from pathlib import Path

import pytest
import torch

from tests.tuning import finished_stage1 as finished_stage1  # noqa: PLC0414 - a fixture
from tests.tuning import tuning_cohort as tuning_cohort  # noqa: PLC0414 - a fixture

# The networks of the tests are tiny: threads that wait for each other only make them slower.
torch.set_num_threads(1)
# A test says what the code does on a CPU, also where there is a GPU; the GPU's own ways are played
# by stand-ins, and measured by benchmarks/. HISTOTRANSFER_TEST_CUDA=1 shows the GPU to the tests.
if not os.environ.get("HISTOTRANSFER_TEST_CUDA"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Nothing in a test may talk to an account or a network.
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real slides, labels and weights; its absence is a failure in CI only."""
    default = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("HISTOTRANSFER_DATA", default))
    if not (root / "idc_breast" / "slides.csv").is_file():
        message = f"no real data in {root}: set HISTOTRANSFER_DATA to the folder that holds it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return root
