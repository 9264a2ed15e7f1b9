"""Examples in docstrings give what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import histotransfer_pl

ROOT = Path(histotransfer_pl.__file__).parent
WITH_EXAMPLES = [
    ".".join(("histotransfer_pl", *path.relative_to(ROOT).with_suffix("").parts))
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name: str) -> None:
    found = doctest.testmod(import_module(name), extraglobs={"np": np})
    assert found.failed == 0
