"""Verbs for the first minutes: ``demo`` and ``init``."""

import os
import platform
import shlex
import sys
import webbrowser
from importlib.resources import files
from pathlib import Path
from typing import Literal

from histotransfer_pl.cli.answer import print_line, record
from histotransfer_pl.errors import ConfigError
from histotransfer_pl.records.files import write_text

_ANNOUNCED = """\
The main job on painted slides: 24 slides of 12 patients, of two classes that differ in a
microscopic texture. No download, no GPU; about 2 minutes on two cores, 1 GB of memory and 150 MB
in {folder}/. Painted slides show the machinery and say nothing about tissue.\
"""


def demo(folder: Path = Path("demo"), browser: bool = True) -> int:
    """Run the main job on painted slides, printing each command, and show the report.

    Args:
        folder: Where everything goes.
        browser: Whether to open the report, where there is a display.
    """
    from histotransfer_pl.cli.main import main

    print_line(_ANNOUNCED.format(folder=folder))
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("extract", "fit"):
        write_text(folder / f"{name}.yaml", preset_text(f"demo_{name}").format(folder=folder))
    page = folder / "report" / "index.html"
    for command in (
        f"paint --folder {folder}",
        f"extract --config {folder}/extract.yaml",
        f"fit --config {folder}/fit.yaml --overwrite true",
        f"test --run_dir {folder}/run",
        f"predict --run_dir {folder}/run",
        f"report --runs {folder}/run --out {page.parent}",
    ):
        print_line(f"\n$ histotransfer_pl {command}")
        code = main(shlex.split(command))
        if code:
            return code
    if browser and has_display():
        webbrowser.open(page.resolve().as_uri())
    print_line(f"\nNext, for your own slides: histotransfer_pl init\nThe report: {page}")
    return 0


def has_display() -> bool:
    """Whether a page opened here would be seen; never in CI or over a plain SSH connection."""
    if os.environ.get("CI") or os.environ.get("SSH_CONNECTION"):
        return False
    if platform.system() == "Linux":
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return sys.stdout.isatty()


def init(
    preset: Literal["slides", "study"] = "slides",
    file: Path = Path("my.yaml"),
    slides: Path = Path("slides"),
    cohort: Path = Path("cohort.csv"),
) -> int:
    """Write a commented YAML file of at most 15 lines, for ``study --config``.

    Args:
        preset: ``slides``: from your slides to a report with one encoder; ``study``: every
            depth of an encoder against random weights and colour.
        file: File to write; one that is there is never overwritten.
        slides: Folder of your slides.
        cohort: Table with one row per slide: ``slide_id``, ``patient_id``, ``label``.
    """
    if file.exists():
        raise ConfigError(f"{file} is there already: give another --file")
    write_text(file, preset_text(preset).format(file=file, slides=slides, cohort=cohort))
    record(files=(file,))
    print_line(f"wrote {file}: edit it, then run")
    print_line(f"histotransfer_pl doctor --config {file}")
    print_line(f"histotransfer_pl study --config {file}")
    return 0


def preset_text(name: str) -> str:
    """The text of a preset that comes with the package."""
    return (files("histotransfer_pl") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
