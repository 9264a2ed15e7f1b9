"""Every shipped YAML: its first line is the command that runs it."""

import shlex
from pathlib import Path

import pandas as pd
import pytest

from histotransfer_pl.cli.doctor_study import read_study
from histotransfer_pl.cli.main import main

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def command(path: Path) -> list[str]:
    """The arguments of the command on the first line."""
    words = shlex.split(path.read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
    assert words[:3] == ["python", "-m", "histotransfer_pl"], f"{path.name}: line 1 is no command"
    return words[3:]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_first_line_is_a_command_that_the_program_understands(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    verb, *arguments = command(path)
    assert str(path.relative_to(ROOT)) in arguments
    if verb == "study":
        assert main([verb, *arguments, "--dry_run"]) == 0
        assert "python -m histotransfer_pl" in capsys.readouterr().out
        return
    with pytest.raises(SystemExit, match="0"):
        main([verb, *arguments, "--print_config"])
    assert "data:" in capsys.readouterr().out


def test_the_readme_names_configs_and_verbs_that_exist() -> None:
    from histotransfer_pl.cli.main import _VERBS

    for document in (ROOT / "README.md", ROOT / "configs" / "README.md"):
        text = document.read_text(encoding="utf-8")
        for line in text.splitlines():
            if "python -m histotransfer_pl " in line and not line.lstrip().startswith("|"):
                verb = line.split("python -m histotransfer_pl ")[1].split()[0].strip("`")
                assert verb in _VERBS, f"{document.name}: {line}"
        for word in text.split():
            if word.startswith("configs/") and word.endswith(".yaml"):
                assert (ROOT / word).is_file(), f"{document.name} names {word}"


def test_the_lung_bags_have_a_positive_class() -> None:
    """Their classes are made by the study itself, and no table shows them before it runs."""
    config = read_study(ROOT / "configs" / "lung_depths.yaml")
    table = pd.DataFrame({"label": ["lung_aca", "lung_scc"]})
    assert config.targets.describe(table).positive == "lung_scc"
