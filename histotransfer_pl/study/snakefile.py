"""The plan as a Snakefile, for more than one machine.

Snakemake schedules, we plan: every step becomes a rule with the same command. Rules hand on the
markers `done/<step>` of the study's folder, which hold the digest of the command, so that a study
that Snakemake ran is finished for this program too, and the other way round.
"""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from histotransfer_pl.runs.state import marker
from histotransfer_pl.runs.steps import ADDING, Plan, Step

WRITES_STORE = frozenset({"prepare", "extract", "extract_tuned", "predict", "select"})
"""Kinds that need the store for themselves."""


def snakefile(
    plan: Plan,
    folder: Path,
    environment: dict[str, str],
    accepted: Mapping[str, int] | None = None,
) -> str:
    """The text of a Snakefile.

    Args:
        plan: The steps.
        folder: Folder of the study.
        environment: Variables of every command.
        accepted: Exit codes of a kind of step that count as done, beside 0.
    """
    markers = [str(marker(folder, step)) for step in plan]
    blocks = [
        f"# snakemake --snakefile THIS_FILE --cores 4 --resources store=1\n"
        f"# {plan.name}: the plan of a histotransfer_pl study; run it from {Path.cwd()}.\n"
        "# store=1: one step at a time writes the store.\n",
        f"rule all:\n    input:\n{_lines(markers)}",
        *(_rule(plan, step, folder, _shell(step, environment, accepted or {})) for step in plan),
    ]
    return "\n\n".join(blocks) + "\n"


def rule_name(step: Step) -> str:
    """An identifier for a step; different steps keep different names."""
    return re.sub(r"\W", lambda found: f"_{ord(found[0]):x}_", step.name.replace("-", "__"))


def _rule(plan: Plan, step: Step, folder: Path, shell: str) -> str:
    needs = []
    for need in step.needs:
        text = json.dumps(str(marker(folder, plan[need])))
        # Repeating an extraction changes no features, so nothing behind it has to be repeated.
        needs.append(f"ancient({text})" if plan[need].kind in ADDING else text)
    made = {output for other in plan for output in other.outputs}
    needs += [json.dumps(name) for name in step.inputs if name not in made]
    own = str(marker(folder, step))
    lines = [f"rule {rule_name(step)}:"]
    if needs:
        lines.append("    input:\n" + _lines(needs, quote=False))
    lines += [f"    output:\n{_lines([own])}", f"    log:\n{_lines([_log(folder, step)])}"]
    if step.kind in WRITES_STORE:
        lines.append("    resources:\n        store=1,")
    lines.append(f"    shell:\n        {json.dumps(shell)}")
    return "\n".join(lines)


def _shell(step: Step, environment: dict[str, str], accepted: Mapping[str, int]) -> str:
    variables = dict(environment)
    if step.threads is not None:
        variables["OMP_NUM_THREADS"] = str(step.threads)
    words = [f"{name}={shlex.quote(value)}" for name, value in sorted(variables.items())]
    command = " ".join([*words, step.command])
    # Braces are Snakemake's own placeholders, and those of JSON settings are not.
    escaped = command.replace("{", "{{").replace("}", "}}")
    run = f"{escaped} > {{log:q}} 2>&1"
    if step.kind in accepted:
        run = f"( {run} || [ $? -eq {accepted[step.kind]} ] )"
    return f"{run} && echo {step.digest} > {{output:q}}"


def _log(folder: Path, step: Step) -> str:
    return str(folder / "logs" / f"{step.name}.log")


def _lines(values: list[str], *, quote: bool = True) -> str:
    return "\n".join(f"        {json.dumps(value) if quote else value}," for value in values)
