"""What `import histotransfer_pl` offers: everything it lists, and nothing heavy until asked for."""

import subprocess
import sys

import pytest

import histotransfer_pl


def test_every_name_is_there() -> None:
    for name in histotransfer_pl.__all__:
        assert getattr(histotransfer_pl, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = histotransfer_pl.nothing


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = (
        "import sys, histotransfer_pl; "
        "print([m for m in ('torch', 'lightning', 'pandas', 'numpy') if m in sys.modules])"
    )
    answer = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert answer.strip() == "[]"


def test_lightning_is_as_quiet_in_python_as_on_the_command_line() -> None:
    program = (
        "from histotransfer_pl import AttentionMIL\n"
        "from lightning.pytorch import Trainer, seed_everything\n"
        "seed_everything(1)\n"
        "Trainer(accelerator='cpu', logger=False)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert said.stdout + said.stderr == ""
