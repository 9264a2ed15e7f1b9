"""Verbs that push nothing through a network start without the libraries of networks."""

import subprocess
import sys

import pytest

_HEAVY = ("torch", "lightning", "torchmetrics", "timm", "wandb", "torchvision")
_PROGRAM = """
import sys
from importlib import import_module
from histotransfer_pl.cli.main import _VERBS, main
try:
    main([{verb!r}, "--help"])
except SystemExit as end:
    assert not end.code
sys.stderr.write("loaded: " + " ".join(m for m in {heavy!r} if m in sys.modules))
"""


def loaded(verb: str) -> set[str]:
    program = _PROGRAM.format(verb=verb, heavy=_HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stderr.rpartition("loaded: ")[2].split())


@pytest.mark.parametrize(
    "verb", ["verify", "tile", "import", "export", "doctor", "init", "paint", "merge", "report"]
)
def test_a_verb_without_a_network_imports_none(verb: str) -> None:
    assert loaded(verb) == set()


def test_the_check_sees_what_a_network_verb_imports() -> None:
    assert {"torch", "timm"} <= loaded("encoders")
