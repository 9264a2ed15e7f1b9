"""The commands of the README: each is understood, and the six of the first page run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from histotransfer_pl.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_PYTHON = re.compile(r"^(.*/)?python3?$")


def commands(text: str) -> list[list[str]]:
    """Words behind `histotransfer_pl` of each command in the bash blocks of a text."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words[:1] == ["histotransfer_pl"]:
                    found.append(words[1:])
                elif words and _PYTHON.match(words[0]) and words[1:3] == ["-m", "histotransfer_pl"]:
                    found.append(words[3:])
    return found


def six_commands() -> str:
    """The block between the markers."""
    block = re.search(r"<!-- six -->\n```bash\n(.*?)```\n<!-- /six -->", README, re.DOTALL)
    assert block is not None
    return block[1]


def test_the_first_page_is_short() -> None:
    assert len(README.splitlines()) <= 150
    assert len(six_commands().strip().splitlines()) <= 6


@pytest.mark.parametrize("words", commands(README), ids=" ".join)
def test_a_command_is_understood(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code 1 is a run or a file that is not here; 2 would be a mistyped command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    if "my.yaml" in words:
        assert main(["init"]) == 0
    try:
        code: int | str | None = main([*words, "--print_config"])
    except SystemExit as end:
        code = end.code
    assert code in (0, 1)


@pytest.mark.slow
def test_the_first_commands_run_from_the_wheel_in_an_empty_folder(tmp_path: Path) -> None:
    pip = ["uv", "pip"] if shutil.which("uv") else [sys.executable, "-m", "pip"]
    build = ["uv", "build", "--wheel", "--out-dir"] if shutil.which("uv") else [*pip, "wheel", "-w"]
    dependencies = [] if shutil.which("uv") else ["--no-deps"]
    subprocess.run([*build, tmp_path / "dist", *dependencies, ROOT], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site, here = tmp_path / "site", tmp_path / "empty"
    python = ["--python", sys.executable] if pip[0] == "uv" else []
    subprocess.run([*pip, "install", *python, "--no-deps", "--target", site, wheel], check=True)
    here.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "PATH": f"{site / 'bin'}:{os.environ['PATH']}",
        "WANDB_MODE": "offline",
        "CI": "true",  # opens no browser
    }
    program = "import histotransfer_pl; print(histotransfer_pl.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=here, env=environment, capture_output=True, check=True
    )
    assert str(site) in found.stdout.decode()
    for line in six_commands().splitlines():
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for written in ("demo/report", "studies/my_slides/report", "applied"):
        page = (here / written / "index.html").read_text(encoding="utf-8")
        assert "</html>" in page
        assert str(here) not in page
    table = (here / "applied" / "predictions.csv").read_text(encoding="utf-8")
    assert len(table.splitlines()) == 1 + 24
