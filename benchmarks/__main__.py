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
from typing import Any, TypedDict

import torch

from benchmarks.machine import describe

GPU_FIRST = (
    "extraction",
    "peers",
    "mil_epoch",
    "depths_extraction",
    "truncation",
    "cka_cost",
)
"""Programs that can run on a GPU, the most telling ones first."""

PROGRAMS = (
    "store_read",
    "store_scale",
    "store_shards",
    "store_objects",
    "datamodule_epoch",
    "mil_epoch",
    "extraction",
    "pipeline",
    "peers",
    "patch_reading",
    "depths_extraction",
    "truncation",
    "finetune_memory",
    "cka_cost",
    "huge_slide",
    "scaling",
    "startup",
)
"""In the order of the table."""

Row = dict[str, Any]
RESULTS = "results.json"


class Results(TypedDict):
    """Rows, and the machines on which they were measured."""

    machines: dict[str, dict[str, str]]
    rows: list[Row]


FOLDER = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the programs one by one, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all run")
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, metavar="NAME")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="measure on this one only")
    parser.add_argument("--minutes", type=float, help="stop after so long, and name what is left")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the results go")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    measured: list[Row] = []
    failed: list[str] = []
    for name, device in plan(options.only, options.device):
        left = None if options.minutes is None else 60 * options.minutes - _since(start)
        found = run_program(name, device, options, left) if left is None or left > 0 else None
        measured += found or []
        failed += [] if found else [f"{name} ({device})"]
    command = " ".join(["python -m benchmarks", *(arguments or sys.argv[1:])])
    machine = {**describe(), "measured": _when(start), "command": f"`{command}`"}
    results = merge(read_results(options.folder), measured, machine)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n")
    (options.folder / "RESULTS.md").write_text(page(results, failed))
    met = sum(row["met"] for row in measured)
    print(f"{met} of {len(measured)} goals met; see {options.folder}")
    if failed:
        print(f"did not run: {', '.join(failed)}")
    return 1 if failed else 0


def plan(only: Sequence[str] | None, device: str | None) -> list[tuple[str, str]]:
    """What to run, and where."""
    if device == "cuda":
        return [(name, "cuda") for name in GPU_FIRST if only is None or name in only]
    found = [(name, where) for name in only or PROGRAMS for where in devices(name)]
    return [(name, where) for name, where in found if device in (None, where)]


def read_results(folder: Path) -> Results:
    """What was measured before; nothing if there is no file."""
    path = folder / RESULTS
    if not path.is_file():
        return {"machines": {}, "rows": []}
    found: Results = json.loads(path.read_text())
    return found


def merge(before: Results, measured: Sequence[Row], machine: dict[str, str]) -> Results:
    """New rows take the place of those of the same program and device; others stay.

    Each row says on which machine, and when, it was measured.
    """
    number = str(max(map(int, before["machines"]), default=0) + 1)
    new = {(row["program"], row["device"]) for row in measured}
    kept = [row for row in before["rows"] if (row["program"], row["device"]) not in new]
    rows = kept + [{**row, "machine": number} for row in measured]
    rows.sort(key=lambda row: (row["device"], PROGRAMS.index(row["program"])))
    machines = {**before["machines"], number: machine}
    used = {row["machine"] for row in rows}
    return {"machines": {key: machines[key] for key in sorted(used, key=int)}, "rows": rows}


def devices(name: str) -> list[str]:
    """Where a program can run on this machine."""
    measure = import_module(f"benchmarks.{name}").measure
    on_gpu = "device" in inspect.signature(measure).parameters and torch.cuda.is_available()
    return ["cpu", "cuda"] if on_gpu else ["cpu"]


def run_program(
    name: str, device: str, options: argparse.Namespace, seconds: float | None
) -> list[Row] | None:
    """The results of a program; None if it failed or took too long, after that was said."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json"]
    command += ["--quick"] if options.quick else []
    command += ["--device", device] if device != "cpu" else []
    command += ["--plot", str(options.folder)] if name == "scaling" else []
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=FOLDER.parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        print(f"{name} on {device}: no time left", flush=True)
        return None
    print(f"{name} on {device}: {time.perf_counter() - begun:.0f} s", flush=True)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
    for row in rows:
        row["program"] = name
        verdict = "met" if row["met"] else "MISSED"
        value = row["left_out"] or f"{row['ratio']:.3g} ({verdict})"
        print(f"  {row['name']}: {value}", flush=True)
    return rows


def page(results: Results, failed: Sequence[str]) -> str:
    """The results as Markdown, one table a device, and what was not measured, with its command."""
    lines = [
        "# Measured speed",
        "",
        "Written by `python -m benchmarks`. Each row compares the project with the plain way of "
        "doing the same, turn by turn in one process; the ratio is the median over the rounds, "
        "with its quartiles. Absolute times belong to the machine.",
    ]
    for number, machine in results["machines"].items():
        lines += ["", f"Machine {number}:", ""]
        lines += [f"- {key}: {value}" for key, value in machine.items()]
    for device, title in (("cpu", "CPU"), ("cuda", "GPU, fp16 and channels_last")):
        rows = [row for row in results["rows"] if row["device"] == device]
        lines += ["", f"## {title}", ""]
        found = [row for row in rows if not row.get("left_out")]
        if found:
            lines += ["| Work | Ratio | Quartiles | Goal | | Measured | Program | Machine |"]
            lines += ["|---|---|---|---|---|---|---|---|"]
            lines += [_line(row) for row in found]
        lines += [f"- not measured: {what}" for what in _not_measured(device, rows)]
    if failed:
        lines += ["", f"Did not run: {', '.join(failed)}."]
    return "\n".join(lines) + "\n"


def _not_measured(device: str, rows: Sequence[Row]) -> list[str]:
    """Rows that lack their input, and programs that did not run, with the command that does."""
    found = [f"{row['name']}: {row['left_out']}" for row in rows if row.get("left_out")]
    there = {row["program"] for row in rows}
    wanted = PROGRAMS if device == "cpu" else GPU_FIRST
    command = f"python -m benchmarks --device {device} --only"
    return found + [f"{name}: `{command} {name}`" for name in wanted if name not in there]


def _since(start: float) -> float:
    return time.perf_counter() - start


def _when(start: float) -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_since(start) / 60:.0f} minutes"


def _line(row: Row) -> str:
    spread = "" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
    sign, verdict = ("≥" if row["at_least"] else "≤"), ("met" if row["met"] else "**missed**")
    goal = f"{sign} {row['goal']:g}"
    notes = row["notes"].replace("|", "/")
    return (
        f"| {row['name']} | {row['ratio']:.3g} | {spread} | {goal} | {verdict} | {notes} "
        f"| `{row['program']}` | {row['machine']} |"
    )


if __name__ == "__main__":
    sys.exit(main())
