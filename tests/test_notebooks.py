"""Notebooks hold their outputs, name no machine, and run from the first cell to the last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_stored_and_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < 600_000
    for place in ("/tmp/", "/home/", "/root/", "/work/", "site-packages"):
        assert place not in text
    cells = nbformat.reads(text, as_version=4).cells
    assert any(cell.get("outputs") for cell in cells)
    assert not any(o.output_type == "error" for cell in cells for o in cell.get("outputs", []))


# The kernel's own machinery warns of event loops and sockets that are none of ours.
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
