"""Runs every program and writes the table: `python -m benchmarks`."""

import argparse
import inspect
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe

PROGRAMS = (
    "store_read",
    "store_scale",
    "store_shards",
    "store_objects",
    "datamodule_epoch",
    "mil_epoch",
    "extraction",
    "patch_reading",
    "depths_extraction",
    "truncation",
    "finetune_memory",
    "cka_cost",
    "huge_slide",
    "scaling",
)
"""In the order of the table."""

Row = dict[str, Any]
FOLDER = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the programs one by one, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all run")
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=PROGRAMS, metavar="NAME")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the results go")
    options = parser.parse_args(arguments)
    machine, start = describe(), time.perf_counter()
    rows: list[Row] = []
    failed: list[str] = []
    for name in options.only:
        for device in devices(name):
            found = run_program(name, device, options)
            rows += found or []
            failed += [] if found else [f"{name} ({device})"]
    machine["measured"] = (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {(time.perf_counter() - start) / 60:.0f} minutes"
    )
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "results.json").write_text(json.dumps(rows, indent=2) + "\n")
    command = " ".join(["python -m benchmarks", *(["--quick"] if options.quick else [])])
    (options.folder / "RESULTS.md").write_text(page(rows, machine, command, failed))
    print(f"{sum(row['met'] for row in rows)} of {len(rows)} goals met; see {options.folder}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def devices(name: str) -> list[str]:
    """Where a program can run on this machine."""
    measure = import_module(f"benchmarks.{name}").measure
    on_gpu = "device" in inspect.signature(measure).parameters and torch.cuda.is_available()
    return ["cpu", "cuda"] if on_gpu else ["cpu"]


def run_program(name: str, device: str, options: argparse.Namespace) -> list[Row] | None:
    """The results of a program; None if it failed, after its error was shown."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json"]
    command += ["--quick"] if options.quick else []
    command += ["--device", device] if device != "cpu" else []
    command += ["--plot", str(options.folder)] if name == "scaling" else []
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    print(f"{name} on {device}: {time.perf_counter() - begun:.0f} s", flush=True)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
    for row in rows:
        row["program"] = name
        print(f"  {row['name']}: {row['ratio']:.3g} ({'met' if row['met'] else 'MISSED'})")
    return rows


def page(rows: Sequence[Row], machine: dict[str, str], command: str, failed: list[str]) -> str:
    """The results as Markdown, one table a device."""
    lines = [
        "# Measured speed",
        "",
        f"Written by `{command}`. Each row compares the project with the plain way of doing the "
        "same, turn by turn in one process; the ratio is the median over the rounds, with its "
        "quartiles. Absolute times belong to this machine.",
        "",
        *(f"- {key}: {value}" for key, value in machine.items()),
    ]
    for device in dict.fromkeys(row["device"] for row in rows):
        title = "GPU, bf16 and channels_last" if device == "cuda" else "CPU"
        lines += ["", f"## {title}", ""]
        lines += ["| Work | Ratio | Quartiles | Goal | | Measured | Program |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [_line(row) for row in rows if row["device"] == device]
    if failed:
        lines += ["", f"Did not run: {', '.join(failed)}."]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    spread = "" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
    sign, verdict = ("≥" if row["at_least"] else "≤"), ("met" if row["met"] else "**missed**")
    goal = f"{sign} {row['goal']:g}"
    notes = row["notes"].replace("|", "/")
    return (
        f"| {row['name']} | {row['ratio']:.3g} | {spread} | {goal} | {verdict} | {notes} "
        f"| `{row['program']}` |"
    )


if __name__ == "__main__":
    sys.exit(main())
