"""The installed command is a function that can be called."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from histotransfer_pl import __version__


def test_the_installed_command_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Path(__file__).parents[1] / "pyproject.toml"
    scripts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["scripts"]
    command = EntryPoint("histotransfer_pl", scripts["histotransfer_pl"], "console_scripts").load()
    monkeypatch.setattr("sys.argv", ["x", "--version"])
    with pytest.raises(SystemExit) as left:
        command()
    assert left.value.code == 0
    assert capsys.readouterr().out == f"{__version__}\n"
