"""Runs every program and writes the table: `python -m benchmarks`."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

import torch

from benchmarks.machine import describe
from benchmarks.result import SECONDS

GPU_FIRST = {
    "extraction": "extraction, default settings, vs encoder or reader alone, ≥ 0.9",
    "peers": "extraction vs the peers' way, ≥ 2",
    "mil_epoch": "AttentionMIL epoch through the Trainer vs a bare loop, ≤ 1.15",
    "topk_step": "top-k training step of 4 slides vs a bare step, ≤ 1.25",
    "stacked_folds": "one step of five stacked heads vs one after the other, ≥ 3",
    "truncation": "four depths in one pass and a cut encoder, ≤ 0.45, 1.05, 0.75",
    "cka_cost": "CKA of all layers vs the forward passes, ≤ 1.3",
    "encoder_precision": "encoder in TF32, bf16 and fp16 vs float32, ≥ 1; error ≤ 0.02, bf16 ≤ 0.1",
    "gpu_jobs": "whole commands, GPU vs CPU, ≥ 1; two ranks on one GPU vs one process, ≤ 0.001",
}
"""Programs that can run on a GPU, the most telling ones first, and what they measure there."""

PROGRAMS = (
    "store_read",
    "store_scale",
    "store_rerun",
    "store_shards",
    "store_objects",
    "remote_extraction",
    "study_plan",
    "report_runs",
    "datamodule_epoch",
    "mil_epoch",
    "topk_step",
    "stacked_folds",
    "extraction",
    "pipeline",
    "peers",
    "other_tools",
    "patch_reading",
    "depths_extraction",
    "truncation",
    "finetune_memory",
    "adapter_memory",
    "cka_cost",
    "encoder_precision",
    "gpu_jobs",
    "huge_slide",
    "scaling",
    "startup",
)
"""In the order of the table."""

Row = dict[str, Any]
RESULTS = "results.json"
_PATIENCE, _LEAST_S = 4, 45
"""A program is stopped at so many times its share, but not before so many seconds."""


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
    parser.add_argument("--minutes", type=float, help="time of all, shared out among the programs")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the results go")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    options.folder.mkdir(parents=True, exist_ok=True)
    before, machine = read_results(options.folder), describe()
    machine["command"] = f"`{' '.join(['python -m benchmarks', *(arguments or sys.argv[1:])])}`"
    measured: list[Row] = []
    failed: list[str] = []
    programs = plan(options.only, options.device)
    for number, (name, device) in enumerate(programs):
        share = None
        if options.minutes is not None:
            share = (60 * options.minutes - _since(start)) / (len(programs) - number)
        found = run_program(name, device, options, share)
        measured += found or []
        failed += [] if found else [f"{name} ({device})"]
        # After each program: who ends this one early keeps what was measured.
        results = merge(before, measured, {**machine, "measured": _when(start)})
        (options.folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n")
        (options.folder / "RESULTS.md").write_text(page(results, failed))
    rows = [row for row in measured if not row["left_out"]]
    print(f"{sum(row['met'] for row in rows)} of {len(rows)} goals met; see {options.folder}")
    for row in measured:
        if row["left_out"]:
            print(f"left out: {row['name']}: {row['left_out']}")
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

    A row that could not be measured now keeps what was measured before. Each row says on which
    machine, and when, it was measured.
    """
    number = str(max(map(int, before["machines"]), default=0) + 1)
    known = {_key(row): row for row in before["rows"] if not row.get("left_out")}
    new = {_key(row)[:2] for row in measured}
    rows = [row for row in before["rows"] if _key(row)[:2] not in new]
    for row in measured:
        old = known.get(_key(row)) if row.get("left_out") else None
        rows.append(old or {**row, "machine": number})
    rows.sort(key=lambda row: (row["device"], PROGRAMS.index(row["program"])))
    machines = {**before["machines"], number: machine}
    used = {row["machine"] for row in rows}
    return {"machines": {key: machines[key] for key in sorted(used, key=int)}, "rows": rows}


def devices(name: str) -> list[str]:
    """Where a program can run on this machine."""
    return ["cpu", "cuda"] if name in GPU_FIRST and torch.cuda.is_available() else ["cpu"]


def run_program(
    name: str, device: str, options: argparse.Namespace, share: float | None
) -> list[Row] | None:
    """The results of a program; None if it failed or took too long, after that was printed.

    Args:
        name: The program.
        device: cpu or cuda.
        options: Of the command line.
        share: Seconds after which it begins no further rounds; it is stopped at four times as many.
    """
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json"]
    command += ["--quick"] if options.quick else []
    command += ["--device", device] if device != "cpu" else []
    command += ["--plot", str(options.folder)] if name == "scaling" else []
    begun = time.perf_counter()
    limits = {} if share is None else {SECONDS: f"{max(share, 0):.0f}"}
    try:
        done = subprocess.run(
            command,
            cwd=FOLDER.parent,
            env=os.environ | limits,
            capture_output=True,
            text=True,
            check=False,
            timeout=None if share is None else max(_LEAST_S, _PATIENCE * share),
        )
    except subprocess.TimeoutExpired:
        print(f"{name} on {device}: stopped after {_since(begun):.0f} s", flush=True)
        return None
    print(f"{name} on {device}: {_since(begun):.0f} s", flush=True)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr, flush=True)
        return None
    rows: list[Row] = json.loads(done.stdout.splitlines()[-1])
    for row in rows:
        row["program"] = name
        row["device"] = device
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
    wanted = GPU_FIRST if device == "cuda" else dict(zip(PROGRAMS, PROGRAMS, strict=True))
    command = f"python -m benchmarks --device {device} --only"
    return found + [
        f"{what}: `{command} {name}`" for name, what in wanted.items() if name not in there
    ]


def _key(row: Row) -> tuple[str, str, str]:
    return row["program"], row["device"], row["name"]


def _since(start: float) -> float:
    return time.perf_counter() - start


def _when(start: float) -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_since(start) / 60:.0f} minutes"


def _line(row: Row) -> str:
    spread = "" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
    sign, verdict = ("≥" if row["at_least"] else "≤"), ("met" if row["met"] else "**missed**")
    goal = f"{sign} {row['goal']:g}"
    notes = " ".join(row["notes"].replace("|", "/").split())
    return (
        f"| {row['name']} | {row['ratio']:.3g} | {spread} | {goal} | {verdict} | {notes} "
        f"| `{row['program']}` | {row['machine']} |"
    )


if __name__ == "__main__":
    sys.exit(main())
