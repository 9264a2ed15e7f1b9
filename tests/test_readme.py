"""The commands of the README: each is understood, and the six of the first page run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from histotransfer_pl.cli.main import main
from histotransfer_pl.slides.synthetic import paint_cohort

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


def installed_wheel(folder: Path) -> dict[str, str]:
    """The environment of a shell that sees the installed wheel, and not this checkout."""
    pip = ["uv", "pip"] if shutil.which("uv") else [sys.executable, "-m", "pip"]
    build = ["uv", "build", "--wheel", "--out-dir"] if shutil.which("uv") else [*pip, "wheel", "-w"]
    dependencies = [] if shutil.which("uv") else ["--no-deps"]
    subprocess.run([*build, folder / "dist", *dependencies, ROOT], check=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    site = folder / "site"
    python = ["--python", sys.executable] if pip[0] == "uv" else []
    subprocess.run([*pip, "install", *python, "--no-deps", "--target", site, wheel], check=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "PATH": f"{site / 'bin'}:{os.environ['PATH']}",
        "WANDB_MODE": "offline",
        "CI": "true",  # opens no browser
    }
    program = "import histotransfer_pl; print(histotransfer_pl.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert str(site) in found.stdout.decode()
    return environment


@pytest.mark.slow
def test_the_python_lines_run_from_the_wheel_and_the_model_without_its_run(tmp_path: Path) -> None:
    environment = installed_wheel(tmp_path)
    here, away = tmp_path / "here", tmp_path / "away"
    table = pd.read_csv(paint_cohort(here, 10, 2, 0, 896))
    (here / str(table.loc[0, "path"])).rename(here / "slides" / "A-17-1.tiff")  # as in the README
    table.loc[0, ["slide_id", "path"]] = ["A-17-1", "slides/A-17-1.tiff"]
    table.to_csv(here / "cohort.csv", index=False)
    shutil.copytree(here / "slides", here / "new_slides")
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    network = '"timm:test_resnet", model={"weights": "random", "alias": "resnet18", '
    block = block.replace('"resnet18", model={', network)
    checks = (
        "assert abs(probabilities.sum() - 1) < 1e-6\n"
        "assert len(attention) == len(features) and abs(attention.sum() - 1) < 1e-4\n"
        "assert len(predictions) == 20\n"
        "from histotransfer_pl import predict; predict('runs/a')\n"
    )
    subprocess.run([sys.executable, "-c", block + checks], cwd=here, env=environment, check=True)
    away.mkdir()
    shutil.move(here / "model.safetensors", away / "model.safetensors")
    shutil.move(here / "new_slides", away / "new_slides")
    here = here.rename(tmp_path / "gone")
    call = ["apply", "--model", "model.safetensors", "--slides", "new_slides", "--out", "applied"]
    subprocess.run(["histotransfer_pl", *call], cwd=away, env=environment, check=True)
    found = pd.read_csv(away / "applied" / "predictions.csv")
    expected = pd.read_csv(here / "runs" / "a" / "predictions.csv").set_index("slide_id")
    expected = expected.loc[found["slide_id"], "p_tumour"]
    assert found["prob_tumour"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-6)


@pytest.mark.slow
def test_the_first_commands_run_from_the_wheel_in_an_empty_folder(tmp_path: Path) -> None:
    environment = installed_wheel(tmp_path)
    here = tmp_path / "empty"
    here.mkdir()
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
    report = here / "demo" / "report"
    listed = (report / "files.txt").read_text(encoding="utf-8").split()
    drawn = sorted(path.relative_to(report).as_posix() for path in report.rglob("*.svg"))
    assert any(name.startswith("figures/slides/") for name in drawn)
    assert set(drawn) <= set(listed)
    table = (here / "applied" / "predictions.csv").read_text(encoding="utf-8")
    assert len(table.splitlines()) == 1 + 24
